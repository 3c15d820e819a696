import assert from 'node:assert/strict'
import { once } from 'node:events'
import { cp, mkdir, mkdtemp, readdir, rm, symlink } from 'node:fs/promises'
import { createServer, type ServerResponse } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, type TestContext, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import {
  at,
  circuitIs,
  type RunningProxy,
  repositoryRoot,
  startProgram,
  startProxy,
  until,
} from '../support/harness.js'
import { ask, configure, FAST } from '../support/http-client.js'
import { exchange, portOf, rawUpstream, response } from '../support/raw.js'
import { simulate } from '../support/simulate.js'

const TRACE = '4bf92f3577b34da6a3ce929d0e0e4736'
const PARENT = '00f067aa0ba902b7'
const TRACEPARENT = `00-${TRACE}-${PARENT}-01`

/** https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/trace/v1/trace.proto */
const SERVER = 2

const EXPORTED = 'exporting traces'

/** A span as it was exported. */
type Span = {
  readonly name: unknown
  readonly kind: unknown
  readonly traceId: unknown
  readonly parentSpanId: unknown
  readonly attributes: Readonly<Record<string, unknown>>
  readonly service: unknown
}

/** A collector that takes OTLP/HTTP in JSON: https://opentelemetry.io/docs/specs/otlp/#otlphttp. */
async function collector(t: TestContext, answer = (reply: ServerResponse) => void reply.end('{}')) {
  const paths = new Set<string>()
  const spans: Span[] = []
  const server = createServer((request, reply) => {
    paths.add(`${request.method} ${request.url}`)
    let text = ''
    request.setEncoding('utf8').on('data', chunk => {
      text += chunk
    })
    request.once('end', () => {
      spans.push(...spansOf(JSON.parse(text)))
      answer(reply.writeHead(200, { 'content-type': 'application/json' }))
    })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.close()
    server.closeAllConnections()
  })
  const url = `http://127.0.0.1:${portOf(server)}`
  return {
    url,
    paths,
    spans,
    env: exportTo(url),
    span: (isIt: (span: Span) => boolean) =>
      until(() => spans.find(isIt), { what: `the span is exported, ${isIt}` }),
  }
}

/** Turns the export on, with short delays. */
const exportTo = (url: string) => ({
  ...FAST,
  OTEL_EXPORTER_OTLP_ENDPOINT: url,
  OTEL_EXPORTER_OTLP_PROTOCOL: 'http/json',
  OTEL_BSP_SCHEDULE_DELAY: '100',
})

function spansOf(body: unknown): Span[] {
  return listAt(body, 'resourceSpans').flatMap(resource =>
    listAt(resource, 'scopeSpans')
      .flatMap(scope => listAt(scope, 'spans'))
      .map(span => ({
        name: at(span, 'name'),
        kind: at(span, 'kind'),
        traceId: at(span, 'traceId'),
        parentSpanId: at(span, 'parentSpanId'),
        attributes: attributesOf(span),
        service: attributesOf(at(resource, 'resource'))['service.name'],
      })),
  )
}

function attributesOf(holder: unknown): Readonly<Record<string, unknown>> {
  return Object.fromEntries(
    listAt(holder, 'attributes').map(each => [
      String(at(each, 'key')),
      Object.values(Object(at(each, 'value')))[0],
    ]),
  )
}

function listAt(value: unknown, key: string): readonly unknown[] {
  const list = at(value, key)
  return Array.isArray(list) ? list : []
}

const linesWith = (proxy: Pick<RunningProxy, 'logs'>, text: string) =>
  proxy.logs().filter(line => String(line.msg).includes(text))

describe('spans', { concurrency: 4 }, () => {
  test('of a refused and of a forwarded request have the circuit state and the outcome', async t => {
    const { simulator } = await simulate(t)
    const { env, span, paths } = await collector(t)
    const proxy = await startProxy(t, { upstream: simulator.url, env })
    assert.equal((await configure(proxy, { headers: { traceparent: TRACEPARENT } })).statusCode, 200)
    const forwarded = await span(({ attributes }) => attributes['http.response.status_code'] === 200)
    assert.deepEqual(forwarded, {
      name: 'POST',
      kind: SERVER,
      traceId: TRACE,
      parentSpanId: PARENT,
      attributes: {
        'fastify.root': '@fastify/otel',
        'http.request.method': 'POST',
        'http.response.status_code': 200,
        'http.route': forwarded.attributes['http.route'],
        'url.path': '/configure',
        'focus_breaker.guarded': true,
        'focus_breaker.forwarded': true,
        'focus_breaker.admits': true,
        'focus_breaker.circuit.state': 'closed',
      },
      service: 'focus-breaker',
    })
    await simulator.setFiber('missing')
    await circuitIs(proxy, 'open')
    assert.equal((await configure(proxy, { headers: { traceparent: TRACEPARENT } })).statusCode, 503)
    const refused = await span(({ attributes }) => attributes['http.response.status_code'] === 503)
    assert.equal(refused.parentSpanId, PARENT)
    assert.equal(refused.traceId, TRACE)
    const { attributes } = refused
    assert.equal(attributes['focus_breaker.guarded'], true)
    assert.equal(attributes['focus_breaker.forwarded'], false)
    assert.equal(attributes['focus_breaker.admits'], false)
    assert.equal(attributes['focus_breaker.circuit.state'], 'open')
    assert.equal(attributes['focus_breaker.circuit.cause'], 'waiting')
    // Neither the metrics nor the log.
    assert.deepEqual([...paths], ['POST /v1/traces'])
    assert.equal(linesWith(proxy, EXPORTED).length, 1)
    assert.equal(await proxy.stop(), 0)
  })

  test('have the state at the time of the decision, not the one that the request itself caused', async t => {
    const { simulator } = await simulate(t)
    const { env, span } = await collector(t)
    const slow = { ...env, FOCUS_BREAKER_PROBE_PERIOD_MS: '60000' }
    const proxy = await startProxy(t, { upstream: simulator.url, env: slow })
    await circuitIs(proxy, 'closed')
    await simulator.setFiber('missing')
    assert.notEqual((await configure(proxy)).statusCode, 200)
    await circuitIs(proxy, 'open')
    const { attributes } = await span(each => each.attributes['url.path'] === '/configure')
    assert.equal(attributes['focus_breaker.forwarded'], true)
    assert.equal(attributes['focus_breaker.admits'], true)
    assert.equal(attributes['focus_breaker.circuit.state'], 'closed')
  })

  test('have no query and no names that clients can make up', async t => {
    const { simulator } = await simulate(t)
    const { env, span, spans } = await collector(t)
    const proxy = await startProxy(t, {
      upstream: simulator.url,
      env: { ...env, FOCUS_BREAKER_BASE_PATH: '/focus-server' },
    })
    const controller = new AbortController()
    const asked = [
      ['GET', '/channels?key=SECRET'],
      ['GET', '/focus-server/-/status?key=SECRET'],
      ['GET', '/-/runs/INVENTED?key=SECRET'],
      ['GET', '/-/INVENTED?key=SECRET'],
      ['GET', '/-/wait?timeout=0s&key=SECRET'],
    ] as const
    for (const [method, path] of asked) await ask(proxy.url + path, { method })
    // One with a slow reader, and one whose client leaves before the response.
    const events = await fetch(`${proxy.url}/-/events?key=SECRET`, { signal: controller.signal })
    assert.equal(events.status, 200)
    await simulator.setFault('GET /sensors', { kind: 'slow', delayMs: 5000 })
    const left = fetch(`${proxy.url}/sensors?key=SECRET`, { signal: controller.signal }).catch(
      () => undefined,
    )
    await until(() => simulator.counters.byRoute['GET /sensors'] === 1)
    controller.abort()
    await left
    await span(({ attributes }) => attributes['url.path'] === '/sensors')
    await span(({ name }) => name === 'GET /-/events')
    // The instrumentation has a separate span for the 404 handler.
    const requests = () => spans.filter(({ kind }) => kind === SERVER)
    await until(() => requests().length >= asked.length + 2)
    assert.doesNotMatch(JSON.stringify(spans), /SECRET/)
    assert.deepEqual(
      requests()
        .map(({ name, attributes }) => `${name} of ${attributes['url.path']}`)
        .sort(),
      [
        'GET /-/events of /-/events',
        'GET /-/runs/:id of /-/runs/INVENTED',
        'GET /-/status of /focus-server/-/status',
        'GET /-/wait of /-/wait',
        'GET of /-/INVENTED',
        'GET of /channels',
        'GET of /sensors',
      ],
    )
  })

  test('that are recorded when the program ends are sent', async t => {
    const { simulator } = await simulate(t)
    const { env, spans } = await collector(t)
    const patient = { ...env, OTEL_BSP_SCHEDULE_DELAY: '60000', OTEL_SERVICE_NAME: 'focus-breaker-lab' }
    const proxy = await startProxy(t, { upstream: simulator.url, env: patient })
    for (let count = 0; count < 20; count += 1) await ask(`${proxy.url}/channels`)
    assert.deepEqual(spans, [])
    assert.equal(await proxy.stop(), 0)
    assert.equal(spans.length, 20)
    assert.deepEqual(new Set(spans.map(({ service }) => service)), new Set(['focus-breaker-lab']))
    const { OTEL_SERVICE_NAME: _, ...unnamed } = patient
    const other = await startProxy(t, {
      upstream: simulator.url,
      env: { ...unnamed, OTEL_RESOURCE_ATTRIBUTES: 'site=lab,service.name=named-here' },
    })
    await ask(`${other.url}/channels`)
    assert.equal(await other.stop(), 0)
    assert.ok(spans.some(({ service }) => service === 'named-here'))
  })
})

/** Valid values, invalid ones, and such as a later version may have. */
const TRACES: readonly (readonly [traceparent: string, logged: string | undefined])[] = [
  [TRACEPARENT, TRACEPARENT],
  [`00-${TRACE}-${PARENT}-00`, `00-${TRACE}-${PARENT}-00`],
  [`cc-${TRACE}-${PARENT}-09-what-the-future-will-be-like`, `cc-${TRACE}-${PARENT}-09`],
  ['00-0-0-00', undefined],
  ['', undefined],
  ['no traceparent, and "quotes"; {"braces": true}', undefined],
  [TRACEPARENT.toUpperCase(), undefined],
]
const TRACESTATE = 'congo=t61rcWkgMzE , rojo=00f067aa0ba902b7,,x@y=a;b:c/d'

describe('traceparent and tracestate', { concurrency: 4 }, () => {
  for (const way of ['on', 'off'] as const) {
    test(`reach focus-server byte for byte with tracing ${way}, and are in the log line`, async t => {
      const upstream = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', 'taken')))
      const { env, spans } = await collector(t)
      const proxy = await startProxy(t, {
        upstream: `http://127.0.0.1:${upstream.port}`,
        env: { ...(way === 'on' ? env : FAST), FOCUS_BREAKER_LOG_LEVEL: 'debug' },
      })
      const send = (...fields: readonly string[]) => {
        const head = ['POST /configure?key=SECRET HTTP/1.1', 'Host: x', 'Content-Length: 2', ...fields]
        const text = `${head.join('\r\n')}\r\nConnection: close\r\n\r\n{}`
        return exchange(t, Number(new URL(proxy.url).port), text)
      }
      const traceFields = (head: string) => head.split('\r\n').filter(line => /^trace/i.test(line))
      for (const [traceparent, logged] of TRACES) {
        const { length } = proxy.logs()
        const [parent, state] = [`traceparent: ${traceparent}`, `tracestate: ${TRACESTATE}`]
        assert.match(await send(parent, state), /^HTTP\/1\.1 200 /)
        assert.deepEqual(traceFields(upstream.received.at(-1)?.head ?? ''), [parent, state])
        const line = await until(() =>
          proxy
            .logs()
            .slice(length)
            .find(({ msg }) => msg === 'request completed'),
        )
        assert.equal(line.traceparent, logged, traceparent)
        assert.equal(line.path, '/configure')
      }
      assert.match(await send(), /^HTTP\/1\.1 200 /)
      assert.deepEqual(traceFields(upstream.received.at(-1)?.head ?? ''), [])
      // One of them was not sampled, and the last request had no trace.
      if (way === 'on') await until(() => spans.length === TRACES.length)
      else assert.deepEqual(spans, [])
    })
  }

  test('of a refused request are in the log line', async t => {
    const { simulator } = await simulate(t, { fiber: 'missing' })
    const proxy = await startProxy(t, {
      upstream: simulator.url,
      env: { ...FAST, FOCUS_BREAKER_LOG_LEVEL: 'debug' },
    })
    await circuitIs(proxy, 'open')
    assert.equal((await configure(proxy, { headers: { traceparent: TRACEPARENT } })).statusCode, 503)
    const line = await until(() => proxy.logs().find(({ statusCode }) => statusCode === 503))
    assert.equal(line.traceparent, TRACEPARENT)
  })
})

describe('the export of traces', { concurrency: 4 }, () => {
  const off: readonly (readonly [what: string, variables: Readonly<Record<string, string>>])[] = [
    ['OTEL_SDK_DISABLED=true', { OTEL_SDK_DISABLED: 'true' }],
    ['OTEL_SDK_DISABLED=TRUE', { OTEL_SDK_DISABLED: 'TRUE' }],
    ['OTEL_TRACES_EXPORTER=none', { OTEL_TRACES_EXPORTER: 'none' }],
    ['an empty endpoint', { OTEL_EXPORTER_OTLP_ENDPOINT: '' }],
  ]
  for (const [what, variables] of off) {
    test(`is off with ${what}`, async t => {
      const { simulator } = await simulate(t)
      const { env, paths } = await collector(t)
      const proxy = await startProxy(t, { upstream: simulator.url, env: { ...env, ...variables } })
      assert.equal((await ask(`${proxy.url}/channels`)).statusCode, 200)
      await delay(300)
      assert.equal(await proxy.stop(), 0)
      assert.deepEqual([...paths], [])
      assert.deepEqual(linesWith(proxy, 'traces'), [])
    })
  }

  test('is on with only the endpoint of the traces', async t => {
    const { simulator } = await simulate(t)
    const { env, url, spans, paths } = await collector(t)
    const { OTEL_EXPORTER_OTLP_ENDPOINT: _, ...others } = env
    const proxy = await startProxy(t, {
      upstream: simulator.url,
      env: { ...others, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: `${url}/traces` },
    })
    await ask(`${proxy.url}/channels`)
    await until(() => spans.length === 1)
    assert.deepEqual([...paths], ['POST /traces'])
  })

  const broken: readonly (readonly [what: string, endpoint: (t: TestContext) => Promise<string>])[] = [
    ['does not exist', async () => 'http://127.0.0.1:1'],
    ['hangs', async t => (await collector(t, () => undefined)).url],
    ['answers 500', async t => (await collector(t, reply => void reply.destroy())).url],
  ]
  for (const [what, endpoint] of broken) {
    test(`to a collector that ${what} breaks nothing and delays no shutdown`, async t => {
      const { simulator } = await simulate(t)
      const env = exportTo(await endpoint(t))
      const proxy = await startProxy(t, { upstream: simulator.url, env })
      for (let count = 0; count < 50; count += 1) {
        assert.equal((await ask(`${proxy.url}/channels`)).statusCode, 200)
      }
      await delay(300)
      assert.equal((await configure(proxy)).statusCode, 200)
      const startedAtMs = performance.now()
      assert.equal(await proxy.stop(), 0)
      const tookMs = performance.now() - startedAtMs
      // The recorded spans have two seconds, plus some time of the machine.
      assert.ok(tookMs < 6000, `the shutdown took ${Math.round(tookMs)} ms`)
    })
  }

  test('without its packages logs a warning that says what to install, and the proxy serves', async t => {
    const { simulator } = await simulate(t)
    const { env, paths } = await collector(t)
    const program = await startProgram(t, {
      command: process.execPath,
      args: [
        join(await installedWithout(t, '@fastify/otel', '@opentelemetry'), 'dist/cli/main.js'),
        ...['serve', '--upstream', simulator.url, '--host', '127.0.0.1', '--port', '0'],
      ],
      env: { ...process.env, ...env },
      readyWhen: line => /"url":"(http[^"]+)".*"listening"/.exec(line)?.[1],
    })
    const proxy = { url: program.ready, logs: () => program.lines().map(line => Object(JSON.parse(line))) }
    assert.equal((await configure(proxy)).statusCode, 200)
    const [warning, ...others] = linesWith(proxy, 'traces')
    assert.equal(warning?.level, 'warn')
    assert.equal(warning.msg, 'cannot export traces; run: npm install @fastify/otel @opentelemetry/sdk-node')
    assert.match(String(at(warning, 'err', 'message')), /@fastify\/otel/)
    assert.deepEqual(others, [])
    assert.deepEqual([...paths], [])
    assert.equal(await program.stop(), 0)
  })
})

/** The built package, installed without these packages, given by name or scope. */
async function installedWithout(t: TestContext, ...absent: readonly string[]): Promise<string> {
  const root = await mkdtemp(join(tmpdir(), 'focus-breaker-bare-'))
  t.after(() => rm(root, { recursive: true }))
  for (const part of ['dist', 'page', 'package.json']) {
    await cp(join(repositoryRoot, part), join(root, part), { recursive: true })
  }
  const packages = join(repositoryRoot, 'node_modules')
  const link = async (name: string) => {
    if (!absent.includes(name)) await symlink(join(packages, name), join(root, 'node_modules', name))
  }
  for (const name of await readdir(packages)) {
    if (name.startsWith('.') || absent.includes(name)) continue
    await mkdir(join(root, 'node_modules', name.startsWith('@') ? name : ''), { recursive: true })
    if (!name.startsWith('@')) await link(name)
    else for (const each of await readdir(join(packages, name))) await link(`${name}/${each}`)
  }
  return root
}
