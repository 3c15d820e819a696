import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { at, circuitIs, type RunningProxy, requireOrSkip, startProxy, statusOf } from '../support/harness.js'
import { startIngress } from '../support/ingress.js'
import { type RawAnswer, rawRequest } from '../support/raw-request.js'
import { assertRefusedForFiber } from '../support/refusal-checks.js'
import { type FocusServer, liveConfigure, startFocusServer } from '../support/uvicorn-focus-server.js'

/**
 * Spellings that become `/configure` at uvicorn, at a gateway in front of it, or in a URL parser on the way; or that
 * uvicorn redirects to `/configure` at its own address.
 */
const spellings = [
  '/configure',
  '/configure?x=1',
  '/configure?',
  '/configure#x',
  '/./configure',
  '/././configure',
  '/%2e/configure',
  '/%2E/configure',
  '/.\\configure',
  '/configure%0a',
  '/configure%0A?x=1',
  '/configure%0aanything',
  '/configure/',
  '/configure//',
  '/configure%2f',
  '/configure%2F',
  '/configure/?x=1',
  '/configure/.',
  '/configure/%2e',
  '/configure/x/..',
  '/configure\\',
  '/configure%5c',
  '//configure',
  '///configure',
  '/\\configure',
  '/%5cconfigure',
  '/%2fconfigure',
  '/%2Fconfigure',
  '/x/../configure',
  '/x/%2e%2e/configure',
  '/x/.%2E/configure',
  '/x%2f..%2fconfigure',
  '/x/..\\configure',
  '/../configure',
  '/channels/../configure',
  '/-/../configure',
  '/-/status/../../configure',
  '/%63onfigure',
  '/configur%65',
  '/%63%6F%6e%66%69%67%75%72%65',
  'http://h/configure',
  'HTTP://h/configure',
  'http://h//configure',
  'http://h/./configure?x=1',
  'http://user@h:80/%63onfigure',
] as const

/** Not HTTP, or nothing that a gateway forwards: any refusal is correct. */
const malformed = [
  '/con\tfigure',
  '/configure\t',
  '/configure\x00',
  '/configure%',
  '/%zzconfigure/../configure',
]

/** Paths that differ from `/configure` for both uvicorn and nginx. */
const others = [
  '/Configure',
  '/CONFIGURE',
  '/configured',
  '/configure/1',
  '/x/configure',
  '/configure;x=1',
  '/;x/configure',
  '/%2563onfigure',
  '/configure%252f',
  '/configure%3fx',
  '/config/1',
  '/x?/../configure',
  '/channels?next=/configure',
]

/** What nginx, which decodes, merges and resolves, turns into `/configure` after removing the prefix. */
const madeConfigureByNginx = [
  '/configure',
  '/./configure',
  '/%2e/configure',
  '//configure',
  '/%2fconfigure',
  '/x/../configure',
  '/x/%2e%2e/configure',
  '/x%2f..%2fconfigure',
  '/%63onfigure',
  '/configure%0a',
  // The `.*` of the rewrite ends at the line feed.
  '/configure%0aanything',
  '/../focus-server/configure',
  '/../%66ocus-server/configure',
  // The location of an ingress with a rewrite is matched case-insensitively.
  '/../Focus-Server/configure',
  '/x/../../FOCUS-SERVER//configure',
]

const alert = {
  FOCUS_BREAKER_PROBE_PERIOD_MS: '100',
}

test('no spelling of configure bypasses an open circuit', async t => {
  if (!requireOrSkip(t, 'uvicorn')) return
  const { upstream, proxy } = await outage(t)
  for (const target of spellings) {
    await t.test(`${target} is refused`, () => assertRefused(proxy, upstream, target))
  }
  for (const target of malformed) {
    await t.test(`${JSON.stringify(target)} does not reach configure`, async () => {
      await assertTurnedAway(proxy.url, upstream, target)
    })
  }
})

test('a path that only looks like configure is forwarded unchanged', async t => {
  if (!requireOrSkip(t, 'uvicorn')) return
  const { upstream, proxy } = await outage(t)
  for (const target of others) {
    await t.test(`${target} arrives byte for byte and gets uvicorn’s response`, async () => {
      await upstream.reset()
      const answer = await post(proxy.url, target)
      assert.deepEqual(await upstream.received(), [{ method: 'POST', target }])
      assert.equal(answer.headers.server, 'uvicorn')
      assert.deepEqual(essence(answer), essence(await post(upstream.url, target)))
    })
  }
  await t.test('GET and HEAD of /configure, which are not guarded, are forwarded unchanged too', async () => {
    for (const method of ['GET', 'HEAD']) {
      await upstream.reset()
      const answer = await rawRequest(proxy.url, { method, target: '/configure' })
      assert.equal(answer.status, 405)
      assert.deepEqual(await upstream.received(), [{ method, target: '/configure' }])
    }
  })
})

test('with a base path, configure is refused with it and without it', async t => {
  if (!requireOrSkip(t, 'uvicorn')) return
  const { upstream, proxy } = await outage(t, { FOCUS_BREAKER_BASE_PATH: '/focus-server' })
  const withPrefix = spellings.filter(target => /^[/\\]/.test(target)).map(target => `/focus-server${target}`)
  const aroundPrefix = [
    '//focus-server/configure',
    '/./focus-server/configure',
    '/%2e/focus-server/configure',
    '/%66ocus-server/configure',
    '/focus%2dserver/configure',
    '/focus-server%2fconfigure',
    '/focus-server\\configure',
    '/focus-server/../configure',
    '/focus-server/../focus-server/configure',
    '/x/../focus-server/configure',
    'http://h/focus-server/configure',
    'http://h//focus-server/%63onfigure',
  ]
  for (const target of [...spellings, ...withPrefix, ...aroundPrefix]) {
    await t.test(`${target} is refused`, () => assertRefused(proxy, upstream, target))
  }

  const passing = [
    { sent: '/focus-server/Configure', arrives: '/Configure' },
    { sent: '/focus-server/configure/1?a=%2F', arrives: '/configure/1?a=%2F' },
    { sent: '/focus-server/x/configure', arrives: '/x/configure' },
    { sent: '/focus-server/%2563onfigure', arrives: '/%2563onfigure' },
    { sent: '/focus-serverx/configure', arrives: '/focus-serverx/configure' },
    { sent: '/Configure', arrives: '/Configure' },
  ]
  for (const { sent, arrives } of passing) {
    await t.test(`${sent} arrives as ${arrives}`, async () => {
      await upstream.reset()
      const answer = await post(proxy.url, sent)
      assert.deepEqual(await upstream.received(), [{ method: 'POST', target: arrives }])
      assert.equal(answer.headers.server, 'uvicorn')
    })
  }
})

test('an ingress turns many spellings into configure', async t => {
  if (!requireOrSkip(t, 'uvicorn', 'nginx')) return
  const upstream = await startFocusServer(t)
  const ingress = await startIngress(t, { upstream: upstream.url })
  // Shows that the tables below are relevant: without the proxy each of these is a configure call.
  for (const target of madeConfigureByNginx) {
    await t.test(`/focus-server${target} is one of them, without the proxy`, async () => {
      await upstream.reset()
      const answer = await post(ingress.url, `/focus-server${target}`)
      assert.equal(answer.status, 200)
      assert.equal(await upstream.handled('configure'), 1)
    })
  }
})

for (const basePath of ['', '/focus-server']) {
  test(`no spelling bypasses a proxy in front of an ingress, with basePath "${basePath}"`, async t => {
    if (!requireOrSkip(t, 'uvicorn', 'nginx')) return
    const upstream = await startFocusServer(t)
    const ingress = await startIngress(t, { upstream: upstream.url })
    const proxy = await proxyInOutage(t, upstream, `${ingress.url}/focus-server`, {
      FOCUS_BREAKER_BASE_PATH: basePath,
    })
    const targets = new Set([...spellings, ...madeConfigureByNginx])
    for (const target of targets) {
      const sent = target.startsWith('/') ? `${basePath}${target}` : target
      await t.test(`${sent} is refused`, () => assertRefused(proxy, upstream, sent))
    }
    for (const target of others) {
      await t.test(`${basePath}${target} gets the same response as without the proxy`, async () => {
        const expected = await post(ingress.url, `/focus-server${target}`)
        await upstream.reset()
        const answer = await post(proxy.url, `${basePath}${target}`)
        assert.deepEqual(essence(answer), essence(expected))
        assert.equal((await upstream.received()).length, 1)
        assert.equal(await upstream.handled('configure'), 0)
      })
    }
  })
}

test('no spelling bypasses a proxy behind an ingress', async t => {
  if (!requireOrSkip(t, 'uvicorn', 'nginx')) return
  const { upstream, proxy } = await outage(t)
  const ingress = await startIngress(t, { upstream: proxy.url })
  for (const target of new Set([...spellings, ...madeConfigureByNginx])) {
    if (!target.startsWith('/')) continue
    await t.test(`/focus-server${target} does not reach configure`, async () => {
      await assertTurnedAway(ingress.url, upstream, `/focus-server${target}`)
    })
  }
  for (const target of madeConfigureByNginx) {
    await t.test(`/focus-server${target} gets the refusal`, async () => {
      assertRefusedForFiber(await post(ingress.url, `/focus-server${target}`))
    })
  }
})

async function outage(
  t: TestContext,
  env: Readonly<Record<string, string>> = {},
): Promise<{ readonly upstream: FocusServer; readonly proxy: RunningProxy }> {
  const upstream = await startFocusServer(t)
  return { upstream, proxy: await proxyInOutage(t, upstream, upstream.url, env) }
}

/** A proxy that has seen the fiber connected, and then lost. */
async function proxyInOutage(
  t: TestContext,
  focusServer: FocusServer,
  upstream: string,
  env: Readonly<Record<string, string>>,
): Promise<RunningProxy> {
  const proxy = await startProxy(t, { upstream, env: { ...alert, ...env } })
  await circuitIs(proxy, 'closed')
  await focusServer.setFiber('missing')
  await circuitIs(proxy, 'open')
  return proxy
}

async function assertRefused(proxy: RunningProxy, upstream: FocusServer, target: string): Promise<void> {
  await upstream.reset()
  const answer = await post(proxy.url, target)
  assert.equal(await upstream.handled('configure'), 0)
  assert.deepEqual(await upstream.received(), [])
  assertRefusedForFiber(answer)
  assert.equal(at(await statusOf(proxy), 'circuit', 'state'), 'open')
}

/** Fails if the request reached configure, or was redirected to it. */
async function assertTurnedAway(url: string, upstream: FocusServer, target: string): Promise<void> {
  await upstream.reset()
  const answer = await post(url, target)
  assert.equal(await upstream.handled('configure'), 0)
  assert.ok(answer.status >= 400, `${answer.status} ${answer.headers.location ?? ''}`)
}

function post(url: string, target: string): Promise<RawAnswer> {
  return rawRequest(url, { method: 'POST', target, body: liveConfigure })
}

/** The parts of a response that a client relies on; the rest belongs to one connection or one moment. */
function essence(answer: RawAnswer) {
  const { 'content-type': type, 'content-length': length, allow, location } = answer.headers
  return { status: answer.status, type, length, allow, location, body: answer.body }
}
