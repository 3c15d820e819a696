import assert from 'node:assert/strict'
import { describe, type TestContext, test } from 'node:test'
import { at, circuitIs, startProxy, statusOf } from '../support/harness.js'
import { type Answer, ask, configure, FAST, NO_PROBES } from '../support/http-client.js'
import { sendAll } from '../support/keep-alive.js'
import { rawClient } from '../support/raw.js'
import { simulate } from '../support/simulate.js'

type Fields = Readonly<Record<string, string>>

/** Asks for a decision as another gateway does when it receives such a request. */
const decide = (proxy: { readonly url: string }, headers: Fields) =>
  ask(`${proxy.url}/-/decision`, { headers })

/** The headers of Traefik's ForwardAuth and Caddy's forward_auth. */
const forwarded = (method: string, uri: string) => ({ 'x-forwarded-method': method, 'x-forwarded-uri': uri })

/** The headers that nginx's auth_request customarily sends; ingress-nginx sends the whole URL. */
const original = (method: string, uri: string) => ({ 'x-original-method': method, 'x-original-uri': uri })
const originalUrl = (method: string, url: string) => ({ 'x-original-method': method, 'x-original-url': url })

/** The proxy in front of a focus-server without a fiber. */
async function withoutFiber(t: TestContext, env: Fields = {}) {
  const { simulator } = await simulate(t, { fiber: 'missing' })
  const proxy = await startProxy(t, { upstream: simulator.url, env: { ...NO_PROBES, ...env } })
  return { simulator, proxy }
}

function isRefusal(answer: Answer, what: string): void {
  assert.equal(answer.statusCode, 503, what)
  assert.equal(at(answer.json, 'status'), 'waiting_for_fiber', what)
}

function isLeave(answer: Answer, what: string): void {
  assert.equal(answer.statusCode, 200, what)
  assert.equal(answer.bytes.length, 0, what)
}

describe('while the fiber is missing', { concurrency: 3 }, () => {
  const gateways: readonly (readonly [who: string, fields: (method: string, uri: string) => Fields])[] = [
    ['Traefik or Caddy', forwarded],
    ['nginx', original],
    ['ingress-nginx', (method, uri) => originalUrl(method, `https://focus.example${uri}`)],
  ]
  test('a job that another gateway asks about is refused, with all that a client needs to know', async t => {
    const { proxy } = await withoutFiber(t)
    for (const [who, fields] of gateways) {
      const refused = await decide(proxy, fields('POST', '/configure'))
      isRefusal(refused, who)
      assert.match(String(refused.headers['retry-after']), /^[1-5]$/)
      assert.equal(refused.headers['cache-control'], 'no-store')
      assert.match(String(refused.headers['content-type']), /^application\/json/)
      // When the gateway returns it, the client gets the same as directly from the proxy.
      const { headers, json } = await configure(proxy)
      for (const name of ['proxy-status', 'link']) assert.equal(refused.headers[name], headers[name])
      const stable = (value: unknown) =>
        ['error', 'message', 'reason', 'details', 'circuit'].map(key => at(value, key))
      assert.deepEqual(stable(refused.json), stable(json))
      for (const [method, uri] of [
        ['GET', '/channels'],
        ['GET', '/configure'],
        ['POST', '/recordings_in_time_range'],
        ['POST', '/configure/more'],
        ['POST', '/?to=/configure'],
      ] as const) {
        isLeave(await decide(proxy, fields(method, uri)), `${who}: ${method} ${uri}`)
      }
    }
  })

  test('no spelling of a guarded path is admitted', async t => {
    const { proxy } = await withoutFiber(t, { FOCUS_BREAKER_BASE_PATH: '/focus-server' })
    for (const uri of [
      ...['/configure', '/configure/', '//configure', '/./configure', '/x/../configure', '/%63onfigure'],
      ...[
        '/configure?a=b',
        '/configure#a',
        '/\\configure',
        '/%2e%2e/configure',
        '/configure%0a',
        'configure',
      ],
      ...['/focus-server/configure', '/FOCUS-SERVER//configure', '/focus-server/x/..%2fconfigure'],
      ...['http://focus.example/configure', 'https://focus.example:8443/focus-server/configure?x'],
    ]) {
      isRefusal(await decide(proxy, forwarded('POST', uri)), uri)
      isRefusal(await decide(proxy, original('POST', uri)), uri)
    }
  })

  test('a gateway that reports nothing asks about a guarded request, and one that omits the method asks about any method', async t => {
    const { proxy } = await withoutFiber(t)
    isRefusal(await decide(proxy, {}), 'nothing reported')
    isRefusal(await decide(proxy, { 'x-forwarded-method': 'GET' }), 'no target')
    isRefusal(await decide(proxy, forwarded('POST', '')), 'an empty target')
    isRefusal(await decide(proxy, { 'x-original-uri': '/configure' }), 'nginx without the method')
    isRefusal(await decide(proxy, { 'x-forwarded-uri': '/configure' }), 'another gateway without the method')
    isRefusal(await decide(proxy, original('', '/configure')), 'an empty method')
    isLeave(await decide(proxy, { 'x-original-uri': '/channels' }), 'another path')
  })

  test('headers that a client sends and its gateway does not set gain it nothing', async t => {
    const { proxy } = await withoutFiber(t)
    const innocent = [
      forwarded('GET', '/channels'),
      original('GET', '/channels'),
      originalUrl('GET', '/channels'),
    ]
    for (const lie of innocent) {
      for (const truth of [forwarded('POST', '/configure'), original('POST', '/configure')]) {
        // The gateway's own headers replace the client's.
        isRefusal(await decide(proxy, { ...lie, ...truth }), JSON.stringify({ lie, truth }))
      }
    }
    const lie = { 'x-forwarded-method': 'GET', 'x-original-uri': '/configure' }
    isRefusal(await decide(proxy, lie), 'the method of one convention and the target of the other')
  })

  test('a header that both a client and its gateway send is judged by each of its values', async t => {
    const { proxy } = await withoutFiber(t)
    for (const values of [
      ['/channels', '/configure'],
      ['/configure', '/channels'],
    ]) {
      for (const family of ['Forwarded', 'Original']) {
        const fields = values.flatMap(uri => [`X-${family}-Uri: ${uri}`, `X-${family}-Method: POST`])
        const [answer] = await sendAll(proxy.url, [{ method: 'GET', target: '/-/decision', fields }])
        assert.equal(answer?.status, 503, fields.join('; '))
      }
    }
  })

  test('other guarded routes count as well, and a HEAD counts as a GET', async t => {
    const routes = '[{method: GET, path: "/waterfall/:task/:rows"}]'
    const { proxy } = await withoutFiber(t, { FOCUS_BREAKER_GUARD_ROUTES: routes })
    isRefusal(await decide(proxy, forwarded('GET', '/waterfall/7/100')), 'GET')
    isRefusal(await decide(proxy, forwarded('HEAD', '/waterfall/7/100')), 'HEAD')
    isLeave(await decide(proxy, forwarded('POST', '/configure')), 'a route that is not guarded here')
  })

  test('a decision sends nothing to focus-server and counts as a refusal', async t => {
    const { simulator, proxy } = await withoutFiber(t)
    const before = simulator.counters.total
    for (let count = 0; count < 5; count += 1) await decide(proxy, forwarded('POST', '/configure'))
    await decide(proxy, forwarded('GET', '/channels'))
    assert.equal(simulator.counters.total, before)
    const totals = at(await statusOf(proxy), 'totals')
    assert.deepEqual([at(totals, 'refused'), at(totals, 'wouldRefuse'), at(totals, 'forwarded')], [5, 0, 0])
  })

  test('refused clients are distinguished by the requests that gateways ask about, not by the decision requests', async t => {
    const { proxy } = await withoutFiber(t, {
      FOCUS_BREAKER_GUARD_ROUTES: '[{"method":"POST","path":"/configure"},{"method":"PUT","path":"/a/:id"}]',
    })
    for (const fields of [
      ...[forwarded('POST', '/configure'), original('POST', '/configure?again'), forwarded('PUT', '/a/1')],
      ...[{ ...forwarded('GET', '/channels'), ...original('PUT', '/a/1') }, forwarded('PUT', '/a/2'), {}],
    ]) {
      isRefusal(await decide(proxy, fields), JSON.stringify(fields))
    }
    const { json } = await ask(`${proxy.url}/-/clients`)
    assert.deepEqual(
      ['attempts', 'operations'].map(what => at(json, 'clients', 0, what)),
      [6, 4],
    )
  })

  test('in observe mode every decision is 200, and those that would be refused are marked and counted', async t => {
    const { proxy } = await withoutFiber(t, { FOCUS_BREAKER_GUARD_MODE: 'observe' })
    const marked = await decide(proxy, forwarded('POST', '/configure'))
    isLeave(marked, 'marked')
    assert.equal(marked.headers['focus-breaker'], 'would-refuse')
    const other = await decide(proxy, forwarded('GET', '/channels'))
    isLeave(other, 'not marked')
    assert.equal(other.headers['focus-breaker'], undefined)
    const totals = at(await statusOf(proxy), 'totals')
    assert.deepEqual([at(totals, 'refused'), at(totals, 'wouldRefuse')], [0, 1])
  })
})

test('when the fiber is back every decision is 200', async t => {
  const { simulator } = await simulate(t, { fiber: 'missing' })
  const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
  isRefusal(await decide(proxy, forwarded('POST', '/configure')), 'while it is missing')
  await simulator.setFiber('present')
  await circuitIs(proxy, 'closed')
  for (const fields of [{}, forwarded('POST', '/configure'), original('POST', '/configure')]) {
    const leave = await decide(proxy, fields)
    isLeave(leave, JSON.stringify(fields))
    assert.equal(leave.headers['cache-control'], 'no-store')
    assert.equal(leave.headers['focus-breaker'], undefined)
  }
})

/** Everything a client may send to make its gateway ask about another request. */
const LIES = [
  ['X-Forwarded-Method: GET', 'X-Forwarded-Uri: /channels', 'X-Forwarded-Host: other.example'],
  ['X-Original-Method: GET', 'X-Original-URI: /channels', 'X-Original-URL: /channels'],
  ['X-HTTP-Method-Override: GET', 'X-Rewrite-URL: /channels'],
]

describe('a target behind a prefix, as Envoy sends it', { concurrency: 3 }, () => {
  const guarded = [
    ...['/configure', '/configure/', '//configure', '/./configure', '/x/../configure', '/%63onfigure'],
    ...[
      '/configure?a=b',
      '/configure#a',
      '/\\configure',
      '/%2e%2e/configure',
      '/configure%0a',
      '/..%2fconfigure',
    ],
    ...['/focus-server/configure', '/FOCUS-SERVER//configure', '/-/../configure', '/configure?uri=/channels'],
  ]
  const others = [
    ...[
      '/channels',
      '/',
      '/configured',
      '/configure/1',
      '/CONFIGURE',
      '/configure;a',
      '/%2563onfigure',
      '/?/configure',
    ],
    ...[
      '/..%2foverride',
      '/../override',
      '/-/override',
      '/../../-/override',
      '/x?status=999',
      '/x?status=503',
    ],
  ]
  for (const base of ['', '/focus-server']) {
    for (const prefix of [
      `${base}/-/decision`,
      `${base}/-/decision?uri=`,
      `${base}/-/decision?status=429&uri=`,
    ]) {
      test(`${prefix}: the method and target of the decision request are judged, whatever a client adds`, async t => {
        const { simulator, proxy } = await withoutFiber(t, { FOCUS_BREAKER_BASE_PATH: '/focus-server' })
        const before = simulator.counters.total
        const status = prefix.includes('429') ? 429 : 503
        const wishes = [...guarded, ...others].flatMap(target => [
          ...[[], ...LIES].map(fields => ({ method: 'POST', target: prefix + target, fields })),
          ...['GET', 'OPTIONS', 'SEARCH'].map(method => ({ method, target: prefix + target, fields: [] })),
        ])
        const answers = await sendAll(proxy.url, wishes)
        for (const [index, { method, target, fields }] of wishes.entries()) {
          const isGuarded = method === 'POST' && guarded.includes(target.slice(prefix.length))
          const { status: sent, body } = answers[index] ?? { status: 0, body: '' }
          const what = `${method} ${target} ${fields.join('; ')}`
          assert.equal(sent, isGuarded ? status : 200, what)
          if (isGuarded) assert.equal(at(JSON.parse(body), 'status'), 'waiting_for_fiber', what)
          else assert.equal(body, '', what)
        }
        assert.equal(simulator.counters.total, before, 'it is not forwarded')
      })
    }
  }

  test('a gateway that always sends GET names the method in a header', async t => {
    const { proxy } = await withoutFiber(t)
    for (const target of ['/-/decision/configure', '/-/decision?uri=/configure']) {
      for (const header of ['x-forwarded-method', 'x-original-method']) {
        isRefusal(await ask(proxy.url + target, { headers: { [header]: 'POST' } }), `${target} ${header}`)
      }
      isLeave(await ask(proxy.url + target), target)
    }
  })

  test('only the literal prefix is served, and no target leads to another route', async t => {
    const { proxy } = await withoutFiber(t, {
      FOCUS_BREAKER_BASE_PATH: '/focus-server',
      FOCUS_BREAKER_ADMIN_TOKEN: 'a-token-of-the-operator',
    })
    const spelled = [
      ...[
        '//-/decision/configure',
        '/x/../-/decision/configure',
        '/-/decision%2fconfigure',
        '/-//decision/configure',
      ],
      ...[
        '/-/%64ecision/configure',
        '/%2d/decision/configure',
        '/-/./decision/configure',
        '/-\\decision/configure',
      ],
      ...[
        '/-/Decision/configure',
        '/-/decision;x/configure',
        '/-/decision#/configure',
        '/FOCUS-SERVER/-/decision/x',
      ],
      ...['/focus-server//-/decision/x', '/focus-server/%2D/decision/x', 'http://u@h/-/decision/configure'],
    ]
    const wrong = await sendAll(
      proxy.url,
      ['POST', 'GET', 'PUT'].flatMap(method => spelled.map(target => ({ method, target }))),
    )
    for (const [index, { status }] of wrong.entries())
      assert.equal(status, 404, spelled[index % spelled.length])
    const fields = ['Authorization: Bearer a-token-of-the-operator']
    const body = JSON.stringify({ state: 'closed', reason: 'a test', forSeconds: 60 })
    const rests = ['/../override', '/..%2foverride', '/%2e%2e/override', '/override', '/../../-/override']
    for (const method of ['PUT', 'DELETE', 'GET']) {
      const answers = await sendAll(
        proxy.url,
        rests.map(rest => ({ method, target: `/-/decision${rest}`, fields, body })),
      )
      for (const answer of answers) assert.deepEqual([answer.status, answer.body], [200, ''])
    }
    assert.equal(at(await statusOf(proxy), 'override'), null)
  })

  test('the body of a decision request is dropped: it is not the next request and cannot keep the connection open', async t => {
    const { proxy } = await withoutFiber(t, { FOCUS_BREAKER_SERVER_BODY_TIMEOUT_MS: '3000' })
    const port = Number(new URL(proxy.url).port)
    const unfinished: Promise<string>[] = []
    const smuggled = 'GET /-/live HTTP/1.1\r\nHost: a\r\n\r\n'
    for (const [target, status] of [
      ['/-/decision/configure', 503],
      ['/-/decision/channels', 200],
      ['/-/decision?status=409&uri=/configure', 409],
      ['/-/decision', 503],
    ] as const) {
      const head = (field: string) => `POST ${target} HTTP/1.1\r\nHost: a\r\n${field}\r\n\r\n`
      const answers = (text: string) =>
        [...text.matchAll(/HTTP\/1\.1 (\d+) /g)].map(match => Number(match[1]))
      const large = smuggled.repeat(30_000)
      for (const [field, body] of [
        [`Content-Length: ${large.length}`, large],
        ['Transfer-Encoding: chunked', `${large.length.toString(16)}\r\n${large}\r\n0\r\n\r\n`],
      ] as const) {
        const client = await rawClient(t, port)
        client.send(head(field) + body + head('Content-Length: 0').replace(target, '/-/decision?status=424'))
        assert.deepEqual(answers(await client.until(/HTTP\/1\.1 424 /)), [status, 424], `${target} ${field}`)
        const slow = await rawClient(t, port)
        unfinished.push(slow.send(head(field)).closed())
      }
      const waiting = await rawClient(t, port)
      waiting.send(head(`Expect: 100-continue\r\nContent-Length: ${smuggled.length}`))
      assert.deepEqual(answers(await waiting.closed()), [status])
    }
    await Promise.all(unfinished)
  })
})

describe('the status that a gateway asks for', { concurrency: 3 }, () => {
  test('replaces that of the refusal and changes nothing else of it', async t => {
    const { proxy } = await withoutFiber(t)
    const usual = await decide(proxy, {})
    for (const status of [400, 403, 409, 424, 429, 503]) {
      for (const target of [`/-/decision?status=${status}`, `/-/decision?status=${status}&uri=/configure`]) {
        const answer = await ask(proxy.url + target, { method: 'POST' })
        assert.equal(answer.statusCode, status, target)
        for (const name of ['proxy-status', 'link', 'content-type', 'cache-control']) {
          assert.equal(answer.headers[name], usual.headers[name], name)
        }
        assert.match(String(answer.headers['retry-after']), /^[1-5]$/)
        assert.equal(at(answer.json, 'status'), 'waiting_for_fiber')
        const problem = await ask(proxy.url + target, {
          ...{ method: 'POST', headers: { accept: 'application/problem+json' } },
        })
        assert.deepEqual([problem.statusCode, at(problem.json, 'status')], [status, status])
        assert.match(String(problem.headers['content-type']), /^application\/problem\+json/)
        assert.equal(problem.headers['proxy-status'], usual.headers['proxy-status'])
      }
      // Clients of the proxy itself still get the configured status.
      assert.equal((await configure(proxy)).statusCode, 503)
    }
  })

  test('is a 400 that names the valid ones if it is not one of them, even while everything is admitted', async t => {
    const { simulator, proxy } = await withoutFiber(t, FAST)
    const wrong = async () => {
      for (const text of [
        '200',
        '204',
        '401',
        '404',
        '500',
        '502',
        '1',
        '0503',
        '503.0',
        '5e2',
        '',
        'open',
      ]) {
        for (const more of ['', '&uri=/channels']) {
          const { statusCode, json } = await ask(`${proxy.url}/-/decision?status=${text}${more}`)
          assert.equal(statusCode, 400, text)
          assert.match(
            String(at(json, 'message')),
            /^status: expected one of 400, 403, 409, 424, 429, 503; given/,
          )
        }
      }
      assert.equal((await ask(`${proxy.url}/-/decision?status=503&status=429`)).statusCode, 400)
    }
    await wrong()
    await simulator.setFiber('present')
    await circuitIs(proxy, 'closed')
    await wrong()
    isLeave(await ask(`${proxy.url}/-/decision?status=429`), 'nothing to refuse')
  })

  test('behind a prefix the query is the client’s: it cannot ask for a status that a gateway takes for a failure', async t => {
    const { proxy } = await withoutFiber(t, { FOCUS_BREAKER_GUARD_STATUS_CODE: '409' })
    for (const [query, status] of [
      ['', 409],
      ['?status=429', 429],
      ...['?status=503', '?status=200', '?status=', '?status=500', '?status=404'].map(
        each => [each, 409] as const,
      ),
    ] as const) {
      const { statusCode } = await ask(`${proxy.url}/-/decision/configure${query}`, { method: 'POST' })
      assert.equal(statusCode, status, query)
      const prefixed = await ask(`${proxy.url}/-/decision?status=424&uri=/configure${query}`, {
        method: 'POST',
      })
      assert.equal(prefixed.statusCode, 424, query)
    }
  })

  test('an override decides, and observe mode only marks', async t => {
    const token = 'a-token-of-the-operator'
    for (const mode of ['enforce', 'observe']) {
      const { proxy } = await withoutFiber(t, {
        FOCUS_BREAKER_GUARD_MODE: mode,
        FOCUS_BREAKER_ADMIN_TOKEN: token,
      })
      const question = () => ask(`${proxy.url}/-/decision?status=429&uri=/configure`, { method: 'POST' })
      const override = (state: string) =>
        ask(`${proxy.url}/-/override`, {
          method: 'PUT',
          headers: { authorization: `Bearer ${token}` },
          body: JSON.stringify({ state, reason: 'a test', forSeconds: 60 }),
        })
      await override('open')
      const refused = await question()
      assert.equal(refused.statusCode, mode === 'enforce' ? 429 : 200)
      assert.equal(at(refused.json, 'status'), mode === 'enforce' ? 'forced_open' : undefined)
      assert.equal(refused.headers['focus-breaker'], mode === 'enforce' ? undefined : 'would-refuse')
      await override('closed')
      const admitted = await question()
      isLeave(admitted, mode)
      assert.equal(admitted.headers['focus-breaker'], undefined)
    }
  })

  test('the link in a refusal that a gateway returns leads to the address that the client used', async t => {
    const { proxy } = await withoutFiber(t, { FOCUS_BREAKER_BASE_PATH: '/focus-server' })
    for (const [uri, link] of [
      ['/focus-server/configure', '</focus-server/-/status>; rel="status"'],
      ['/configure', '</-/status>; rel="status"'],
    ] as const) {
      assert.equal((await decide(proxy, forwarded('POST', uri))).headers.link, link)
      const { headers } = await ask(`${proxy.url}/-/decision${uri}`, { method: 'POST' })
      assert.equal(headers.link, link)
    }
  })
})
