import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, type TestContext, test } from 'node:test'
import {
  at,
  circuitIs,
  freePort,
  type RunningProxy,
  requireOrSkip,
  startProgram,
  startProxy,
  statusOf,
} from '../support/harness.js'
import { type Answer, ask, configure, FAST, NO_PROBES } from '../support/http-client.js'
import { simulate } from '../support/simulate.js'

type Fields = Readonly<Record<string, string>>

/** Asks as another gateway does that has such a request before it. */
const decide = (proxy: { readonly url: string }, headers: Fields) =>
  ask(`${proxy.url}/-/decision`, { headers })

/** As Traefik's ForwardAuth and Caddy's forward_auth tell it. */
const forwarded = (method: string, uri: string) => ({ 'x-forwarded-method': method, 'x-forwarded-uri': uri })

/** As nginx's auth_request tells it by custom; ingress-nginx tells the whole URL. */
const original = (method: string, uri: string) => ({ 'x-original-method': method, 'x-original-uri': uri })
const originalUrl = (method: string, url: string) => ({ 'x-original-method': method, 'x-original-url': url })

/** The proxy before a focus-server without a fiber. */
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
  const told: readonly (readonly [who: string, fields: (method: string, uri: string) => Fields])[] = [
    ['Traefik or Caddy', forwarded],
    ['nginx', original],
    ['ingress-nginx', (method, uri) => originalUrl(method, `https://focus.example${uri}`)],
  ]
  test('a job that another gateway tells of is refused, with all that a client needs to know', async t => {
    const { proxy } = await withoutFiber(t)
    for (const [who, fields] of told) {
      const refused = await decide(proxy, fields('POST', '/configure'))
      isRefusal(refused, who)
      assert.match(String(refused.headers['retry-after']), /^[1-5]$/)
      assert.equal(refused.headers['cache-control'], 'no-store')
      assert.match(String(refused.headers['content-type']), /^application\/json/)
      // Handed on to the client, it is what the client would have got here.
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

  test('no spelling of a guarded path is let through', async t => {
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

  test('a gateway that tells nothing asks about a guarded request, and without the method about any', async t => {
    const { proxy } = await withoutFiber(t)
    isRefusal(await decide(proxy, {}), 'nothing told')
    isRefusal(await decide(proxy, { 'x-forwarded-method': 'GET' }), 'no target')
    isRefusal(await decide(proxy, forwarded('POST', '')), 'an empty target')
    isRefusal(await decide(proxy, { 'x-original-uri': '/configure' }), 'nginx without the method')
    isRefusal(await decide(proxy, { 'x-forwarded-uri': '/configure' }), 'another without the method')
    isRefusal(await decide(proxy, original('', '/configure')), 'an empty method')
    isLeave(await decide(proxy, { 'x-original-uri': '/channels' }), 'another path')
  })

  test('what a client itself writes into fields that its gateway does not set helps it nowhere', async t => {
    const { proxy } = await withoutFiber(t)
    const innocent = [
      forwarded('GET', '/channels'),
      original('GET', '/channels'),
      originalUrl('GET', '/channels'),
    ]
    for (const lie of innocent) {
      for (const truth of [forwarded('POST', '/configure'), original('POST', '/configure')]) {
        // The gateway's own fields stand in place of the client's.
        isRefusal(await decide(proxy, { ...lie, ...truth }), JSON.stringify({ lie, truth }))
      }
    }
    const lie = { 'x-forwarded-method': 'GET', 'x-original-uri': '/configure' }
    isRefusal(await decide(proxy, lie), 'the method of one custom and the target of the other')
  })

  test('other guarded routes count as well, and a HEAD as a GET', async t => {
    const routes = '[{method: GET, path: "/waterfall/:task/:rows"}]'
    const { proxy } = await withoutFiber(t, { FOCUS_BREAKER_GUARD_ROUTES: routes })
    isRefusal(await decide(proxy, forwarded('GET', '/waterfall/7/100')), 'GET')
    isRefusal(await decide(proxy, forwarded('HEAD', '/waterfall/7/100')), 'HEAD')
    isLeave(await decide(proxy, forwarded('POST', '/configure')), 'a route that is not guarded here')
  })

  test('a decision asks nothing of focus-server, and is counted like a refusal', async t => {
    const { simulator, proxy } = await withoutFiber(t)
    const before = simulator.counters.total
    for (let count = 0; count < 5; count += 1) await decide(proxy, forwarded('POST', '/configure'))
    await decide(proxy, forwarded('GET', '/channels'))
    assert.equal(simulator.counters.total, before)
    const totals = at(await statusOf(proxy), 'totals')
    assert.deepEqual([at(totals, 'refused'), at(totals, 'wouldRefuse'), at(totals, 'forwarded')], [5, 0, 0])
  })

  test('what is told apart are the requests that gateways tell of, and not their questions', async t => {
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

  test('in mode observe everything has leave, and what would be refused is marked and counted', async t => {
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

test('when the fiber is back there is leave for everything', async t => {
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

test('behind nginx a refusal becomes a 500, unless its error page asks for the refusal again', async t => {
  if (!requireOrSkip(t, 'nginx')) return
  const { simulator, proxy } = await withoutFiber(t)
  const nginx = await startGate(t, simulator.url, proxy)
  const bare = await configure({ url: `${nginx}/bare` })
  assert.equal(bare.statusCode, 500)
  const told = await configure({ url: `${nginx}/told` })
  isRefusal(told, 'handed on')
  assert.match(String(told.headers['retry-after']), /^[1-5]$/)
  // A lie of the client's, which nginx passes on.
  assert.equal(
    (await configure({ url: `${nginx}/bare` }, { headers: forwarded('GET', '/ack') })).statusCode,
    500,
  )
  assert.equal((await ask(`${nginx}/told/channels`)).statusCode, 200)
  assert.equal(simulator.counters.byRoute['POST /configure'], undefined)
})

/** nginx before focus-server itself, with our decision for each request; its URL. */
async function startGate(t: TestContext, upstream: string, proxy: RunningProxy): Promise<string> {
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-gate-'))
  t.after(() => rmSync(directory, { recursive: true, force: true }))
  const port = await freePort()
  const paths = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
  const file = join(directory, 'nginx.conf')
  writeFileSync(
    file,
    `
daemon off;
master_process off;
pid ${directory}/nginx.pid;
error_log stderr notice;
events { worker_connections 64; }
http {
  access_log off;
  ${paths.map(name => `${name}_temp_path ${directory}/${name};`).join('\n  ')}
  server {
    listen 127.0.0.1:${port};
    location /bare/ {
      auth_request /decision;
      proxy_pass ${upstream}/;
    }
    location /told/ {
      auth_request /decision;
      error_page 500 = @refused;
      proxy_pass ${upstream}/;
    }
    location = /decision {
      internal;
      proxy_pass ${proxy.url}/-/decision;
      proxy_pass_request_body off;
      proxy_set_header Content-Length "";
      proxy_set_header X-Original-Method $request_method;
      proxy_set_header X-Original-URI /$decided;
    }
    location @refused {
      rewrite ^ /-/decision break;
      proxy_pass ${proxy.url};
      proxy_method GET;
      proxy_pass_request_body off;
      proxy_set_header Content-Length "";
    }
  }
  map $request_uri $decided {
    ~^/(bare|told)/(?<below>.*)$ $below;
  }
}
`,
  )
  await startProgram(t, {
    command: '/usr/sbin/nginx',
    args: ['-p', directory, '-c', file],
    // Said after the sockets are bound and listening.
    readyWhen: line => (line.includes('OS: ') ? true : undefined),
  })
  return `http://127.0.0.1:${port}`
}
