import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ABSOLUTE_FORM } from '../../src/domain/guarded-route.js'
import { circuitIs, requireOrSkip, startProxy } from '../support/harness.js'
import { startIngress } from '../support/ingress.js'
import { sendAll } from '../support/keep-alive.js'
import type { RawAnswer } from '../support/raw-request.js'
import { amountOf, seeded, seedOfRun } from '../support/seeded.js'
import { spellings } from '../support/spellings.js'
import { liveConfigure, startFocusServer } from '../support/uvicorn-focus-server.js'

/** The number of spellings. Each run prints its `SEED`, which repeats it. */
const COUNT = amountOf('SPELLINGS', 2500)

/** Findings of earlier runs, and spellings worth testing every time. */
const KEPT = [
  ...['/configure', '/%63onfigure', '/configure%0a', '//configure', '/x/../configure', '/configure/'],
  ...['/x/y\\z/../../configure', '/x/y%5cz/../../configure', '/x%0a/../configure', '/%0a/../configure'],
  ...[
    '/-/*/configure',
    '/-/..*',
    '/configure;x=1',
    '/;x/configure',
    '/Configure',
    '/%2563onfigure',
    '/%c1%a3onfigure',
    '/configure#x',
    '/./configure%0a;/..',
    '/configure/\xe9',
  ],
] as const

type Verdict = 'configure' | 'redirect' | 'other'

test('none of thousands of spellings bypasses an open circuit, and every other path is forwarded', async t => {
  if (!requireOrSkip(t, 'uvicorn', 'nginx')) return
  const seed = seedOfRun()
  t.diagnostic(`SEED=${seed} SPELLINGS=${COUNT}`)
  const targets = [...new Set([...KEPT, ...spellings(seeded(seed), COUNT)])]
  const upstream = await startFocusServer(t)
  const ingress = await startIngress(t, { upstream: upstream.url })

  // How the real servers interpret each spelling, with the fiber connected and no proxy in between.
  const direct = await sendAll(upstream.url, targets.map(configureBy))
  assert.equal(direct.filter(isConfigure).length, await upstream.handled('configure'))
  await upstream.reset()
  const published = await sendAll(ingress.url, targets.map(behindPrefix).map(configureBy))
  assert.equal(published.filter(isConfigure).length, await upstream.handled('configure'))
  const lenient = await lenientVerdicts(targets, upstream.url, ingress.url)
  const isReal = targets.map((_, index) => [direct[index], published[index]].some(answer => leads(answer)))

  const bare = await startProxy(t, { upstream: upstream.url, env: ALERT })
  const outside = await startProxy(t, { upstream: `${ingress.url}/focus-server`, env: ALERT })
  const inner = await startIngress(t, { upstream: bare.url })
  await upstream.setFiber('missing')
  await circuitIs(bare, 'open')
  await circuitIs(outside, 'open')

  const rows = [
    { name: 'in front of uvicorn', url: bare.url, map: same, plain: direct, at: upstream.url },
    { name: 'in front of nginx', url: outside.url, map: same, plain: published, at: ingress.url },
    { name: 'behind nginx', url: inner.url, map: behindPrefix, plain: published, at: ingress.url },
  ]
  for (const { name, url, map, plain, at } of rows) {
    await t.test(name, async t => {
      await upstream.reset()
      const answers = await sendAll(url, targets.map(map).map(configureBy))
      const handled = await upstream.handled('configure')
      const passed = targets.filter((_, index) => isFromConfigure(answers[index]))
      assert.deepEqual(passed, [], `reached configure, SEED=${seed}`)
      assert.equal(handled, 0)
      const redirected = targets.filter((_, index) => isRedirectTo(answers[index], upstream.url))
      assert.deepEqual(redirected, [], `redirected past the proxy, SEED=${seed}`)
      const kinds = targets.map((target, index) => kindOf(target, answers[index]))
      const failed = targets.filter((_, index) => kinds[index] === 'failed')
      assert.deepEqual(failed, [], `no response, or 500, SEED=${seed}`)
      const wronged = targets.filter(
        (_, index) => kinds[index] === 'refused' && !isReal[index] && lenient[index] === 'other',
      )
      assert.deepEqual(wronged, [], `refused unnecessarily, SEED=${seed}`)
      const unheard = targets.filter(
        // A target that does not start with a slash is not a request target (RFC 9112, 3.2). Neither is one with bytes
        // beyond ASCII: uvicorn rejects them as well, and only nginx accepts and encodes them.
        (target, index) =>
          kinds[index] === 'malformed' && target.startsWith('/') && direct[index]?.status !== 400,
      )
      assert.deepEqual(unheard, [], `malformed only to the proxy, SEED=${seed}`)
      const changed = targets.flatMap((target, index) => {
        const [expected, answer] = [plain[index], answers[index]]
        // Only the path of a whole URL is forwarded (RFC 9112, 3.2.1), so nginx does not see what it would reject.
        if (kinds[index] !== 'forwarded' || isReal[index] || !target.startsWith('/')) return []
        const [without, through] = [essence(expected, at), essence(answer, url)]
        return without === through ? [] : [{ target, without, with: through }]
      })
      assert.deepEqual(changed, [], `different from the response without the proxy, SEED=${seed}`)
      const of = (kind: string) => kinds.filter(each => each === kind).length
      const onlyLenient = targets.filter((_, index) => kinds[index] === 'refused' && !isReal[index]).length
      t.diagnostic(
        `${targets.length} spellings, ${isReal.filter(Boolean).length} of which lead to configure: ${of('refused')} refused (${onlyLenient} only because of laxer gateways), ${of('forwarded')} forwarded, ${of('own')} own, ${of('malformed')} no HTTP`,
      )
    })
  }

  await t.test('a forwarded request arrives byte for byte', async () => {
    const sent = targets.filter(target => target.startsWith('/') && !target.includes('#'))
    await upstream.reset()
    const answers = await sendAll(bare.url, sent.map(configureBy))
    const forwarded = sent.filter((target, index) => kindOf(target, answers[index]) === 'forwarded')
    const arrived = (await upstream.received()).map(({ target }) => target)
    // To uvicorn an empty query is no query.
    assert.deepEqual(arrived.sort(), forwarded.map(target => target.replace(/^([^?]*)\?$/, '$1')).sort())
  })
})

test('no header makes an unguarded request guarded, or a guarded one unguarded', async t => {
  if (!requireOrSkip(t, 'uvicorn')) return
  const upstream = await startFocusServer(t)
  const proxy = await startProxy(t, { upstream: upstream.url, env: ALERT })
  await circuitIs(proxy, 'closed')
  await upstream.setFiber('missing')
  await circuitIs(proxy, 'open')
  const names = ['X-HTTP-Method-Override', 'X-HTTP-Method', 'X-Method-Override', '_method']
  const refused = ['GET', 'get', 'PUT', 'DELETE', 'OPTIONS', 'POST, GET', '', '\xff'].flatMap(method =>
    names.map(name => ({ method: 'POST', target: '/configure', field: `${name}: ${method}` })),
  )
  const others = ['/channels', '/ack', '/configure/1']
  const forwarded = [
    ...['GET', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'].flatMap(method =>
      names.map(name => ({ method, target: '/configure', field: `${name}: POST` })),
    ),
    ...['GET', 'HEAD', 'PUT'].map(method => ({ method, target: '/configure?_method=POST', field: 'X: 1' })),
    ...['X-Original-URL', 'X-Rewrite-URL', 'X-Original-URI', 'X-Accel-Redirect', 'X-Forwarded-Path'].flatMap(
      name => others.map(target => ({ method: 'POST', target, field: `${name}: /configure` })),
    ),
    ...['X-Forwarded-Prefix', 'X-Script-Name'].flatMap(name =>
      others.map(target => ({ method: 'POST', target, field: `${name}: /x` })),
    ),
  ]
  const toSend = [...refused, ...forwarded]
    .filter(({ method }) => method !== 'HEAD')
    .map(({ method, target, field }) => ({ method, target, fields: [field], body: liveConfigure }))
  await upstream.reset()
  const answers = await sendAll(proxy.url, toSend)
  toSend.forEach(({ method, target, fields }, index) => {
    const isGuarded = method === 'POST' && target === '/configure'
    assert.equal(
      kindOf(target, answers[index]),
      isGuarded ? 'refused' : 'forwarded',
      `${method} ${target} with ${fields.join()}: ${JSON.stringify(answers[index])}`,
    )
  })
  assert.equal(await upstream.handled('configure'), 0)
  const arrived = await upstream.received()
  assert.equal(arrived.length, toSend.length - refused.length)
  assert.deepEqual(
    arrived.filter(({ method, target }) => method === 'POST' && target === '/configure'),
    [],
  )
})

const ALERT = { FOCUS_BREAKER_PROBE_PERIOD_MS: '100' }

const same = (target: string) => target

/** The same in the URL that the ingress publishes. */
function behindPrefix(target: string): string {
  const prelude = ABSOLUTE_FORM.exec(target)?.[0] ?? ''
  return `${prelude}/focus-server${target.slice(prelude.length)}`
}

function configureBy(target: string) {
  return { method: 'POST', target, body: liveConfigure }
}

/** The job of an accepted configure. */
function isConfigure(answer: RawAnswer | undefined): boolean {
  return answer?.status === 200 && answer.body.includes('"job_id"')
}

/** Any response of configure: a job, or that the fiber is missing. */
function isFromConfigure(answer: RawAnswer | undefined): boolean {
  return isConfigure(answer) || (answer?.body.includes('Cannot proceed') ?? false)
}

function isRedirect({ status, headers }: RawAnswer): boolean {
  return status >= 300 && status < 400 && /\/configure\/?([?#].*)?$/.test(headers.location ?? '')
}

/** A redirect to configure at the upstream's own address. */
function isRedirectTo(answer: RawAnswer | undefined, url: string): boolean {
  return answer !== undefined && isRedirect(answer) && (answer.headers.location ?? '').startsWith(url)
}

function leads(answer: RawAnswer | undefined): boolean {
  return answer !== undefined && (isConfigure(answer) || isRedirect(answer))
}

/**
 * How the same servers interpret it behind a gateway that is laxer than nginx: one that takes a backslash for a slash,
 * lets `..` end at the root as web URLs do, or ends the path at a line feed whatever follows, before or after it has
 * resolved the dots. The guard is a superset of these too, because it does not know what is behind its upstream's
 * address.
 */
async function lenientVerdicts(
  targets: readonly string[],
  upstream: string,
  ingress: string,
): Promise<readonly Verdict[]> {
  const readings = targets.map(target => {
    const whole = behindPrefix(target)
    // The last is what the guard behind nginx sees: nginx has resolved it already, and does not treat backslashes as
    // separators.
    return [target, whole, resolved(whole.replace(QUERY, ''))].flatMap(path => [
      laxPath(path),
      laxPath(path.replace(/%0a.*$/is, '')),
    ])
  })
  const asked = [...new Set(readings.flat())]
  const answers = [
    await sendAll(upstream, asked.map(configureBy)),
    await sendAll(ingress, asked.map(configureBy)),
    await sendAll(ingress, asked.map(behindPrefix).map(configureBy)),
  ]
  const leading = new Set(asked.filter((_, index) => answers.some(row => leads(row[index]))))
  return readings.map(paths => (paths.some(path => leading.has(path)) ? 'configure' : 'other'))
}

const QUERY = /[?#].*$/s

/** The path with all of that resolved; letters stay as they were encoded. */
function laxPath(target: string): string {
  const { length } = ABSOLUTE_FORM.exec(target)?.[0] ?? ''
  const path = target
    .slice(length)
    .replace(QUERY, '')
    .replace(/%5c|\\/gi, '/')
  return resolved(path).replace(/%0a.*$/is, '')
}

/** A path without empty segments, `.` and `..`, encoded or not. */
function resolved(path: string): string {
  const { length } = ABSOLUTE_FORM.exec(path)?.[0] ?? ''
  const segments: string[] = []
  for (const segment of path.slice(length).replace(/%2f/gi, '/').replace(/%2e/gi, '.').split('/')) {
    if (segment === '..') segments.pop()
    else if (segment !== '' && segment !== '.') segments.push(segment)
  }
  return `/${segments.join('/')}`
}

/** What the proxy did with it. */
function kindOf(
  target: string,
  answer: RawAnswer | undefined,
): 'refused' | 'forwarded' | 'own' | 'malformed' | 'failed' {
  if (answer === undefined || answer.status === 0 || answer.status === 500) return 'failed'
  if (answer.body.includes('"forwarded":false')) return 'refused'
  if (answer.body.includes('The request is not valid HTTP/1.1.')) return 'malformed'
  if (/No such route\.|This route supports/.test(answer.body)) {
    assert.match(target, /-|%2d/i, `taken for one of our own routes: ${target}`)
    return 'own'
  }
  return 'forwarded'
}

/**
 * The parts of a response that a client relies on when it used this address; the rest belongs to one connection or one
 * moment.
 */
function essence(answer: RawAnswer | undefined, url: string): string {
  if (answer === undefined) return 'nothing'
  const { status, headers, body } = answer
  const { 'content-type': type, 'content-length': length, allow } = headers
  const location = headers.location?.replace(url, '')
  return JSON.stringify({ status, type, length, allow, location, body })
}
