import { setTimeout as sleep } from 'node:timers/promises'
import { request } from 'undici'
import type { Fault } from '../config/fault.js'
import { withinOutage } from '../domain/outage.js'
import { oneLine } from '../domain/text.js'
import { inWords } from '../domain/time.js'
import { failureOf } from '../upstream/failure.js'
import type { Arguments, Flag } from './arguments.js'
import { type ProxyUrl, readProxyUrl, redirectTarget, withoutAnyCredentials } from './proxy-url.js'
import { type CircuitSeen, type ForecastSeen, forecastInWords, type Verdict } from './verdict.js'

/** The flags that choose what to probe. */
export const PROBE_FLAGS: readonly Flag[] = [
  {
    name: 'proxy',
    value: 'URL',
    sentence:
      'ask a running proxy (default: FOCUS_BREAKER_URL; NODE_EXTRA_CA_CERTS=FILE for a self-signed certificate)',
  },
  { name: 'upstream', value: 'URL', sentence: 'probe focus-server directly' },
  {
    name: 'config',
    value: 'FILE',
    sentence: 'with --upstream: YAML file with the predicates, timeouts and TLS settings to use',
  },
]

/** Checks the fiber, once or repeatedly. */
export type Observer = {
  /** Checks now. The check may take one second even if `maxMs` is less. */
  readonly probe: (maxMs?: number) => Promise<Verdict>
  /** Waits for a change, for at most `maxMs`, and checks again. */
  readonly next: (maxMs: number) => Promise<Verdict>
  readonly close: () => Promise<void>
}

/** How long the proxy may take to respond, and the minimum that it is given when the maximum wait is nearly over. */
const PROXY_TIMEOUT_MS = 5000
const MIN_TIMEOUT_MS = 1000

/**
 * How long `/-/wait` may hold a request. Any change other than the return of the fiber is noticed only after this time.
 */
const HOLD_MS = 5000

/** The pause before an unreachable proxy is asked again, varied by up to half. */
const PROXY_PAUSE_MS = 2000

/** The variable with the URL of the proxy, used if no flag is given. */
const URL_VARIABLE = 'FOCUS_BREAKER_URL'

/** Creates the observer that the arguments describe, or returns all their faults. */
export async function observerFor(
  args: Arguments,
  environment: NodeJS.ProcessEnv,
): Promise<
  | { readonly ok: true; readonly observer: Observer }
  | { readonly ok: false; readonly faults: readonly Fault[] }
> {
  const faults: Fault[] = [...args.faults]
  const upstream = args.flags.get('upstream')
  const named = args.flags.get('proxy')
  // Our other clients read the same variable. Both flags take precedence over it.
  const isByVariable = named === undefined && upstream === undefined
  const proxy = isByVariable ? environment[URL_VARIABLE]?.trim() || undefined : named
  const fault = (option: string, expected: string, given: string, source = '') =>
    faults.push({ option, source, expected, given })
  if ((proxy === undefined) === (upstream === undefined)) {
    const given = proxy === undefined ? 'neither' : 'both'
    // An unknown flag may have been meant as one of the two.
    if (given === 'both' || args.faults.length === 0)
      fault(
        '',
        'either --proxy URL or --upstream URL (or FOCUS_BREAKER_URL, the URL of a proxy)',
        given,
        'command line',
      )
  }
  const url = proxy === undefined ? undefined : readProxyUrl(proxy)
  if (proxy !== undefined && url === undefined) {
    const expected = 'an http or https URL without query or fragment, like http://localhost:8080'
    const given = withoutAnyCredentials(proxy)
    if (isByVariable) fault('', expected, given, URL_VARIABLE)
    else fault('--proxy', expected, given)
  }
  if (upstream === undefined && args.flags.has('config')) {
    fault('--config', 'to be used with --upstream', 'without it')
  }
  if (args.flags.has('junit-skip-all') && !args.flags.has('junit')) {
    fault('--junit-skip-all', 'to be used with --junit', 'without it')
  }
  if (url !== undefined && faults.length === 0) return { ok: true, observer: observeProxy(url) }
  if (upstream === undefined) return { ok: false, faults }
  // A check of a proxy needs no configuration. An init container that waits for hours saves the memory of the schema.
  const [{ loadFor }, { observeUpstream }] = await Promise.all([
    import('./configuration.js'),
    import('./probe-upstream.js'),
  ])
  const loaded = loadFor({ ...args, faults }, environment)
  return loaded.ok ? { ok: true, observer: observeUpstream(loaded.config) } : loaded
}

function observeProxy({ base, headers }: ProxyUrl): Observer {
  const probe = async (maxMs = PROXY_TIMEOUT_MS): Promise<Verdict> => {
    const timeoutMs = Math.ceil(Math.min(PROXY_TIMEOUT_MS, Math.max(MIN_TIMEOUT_MS, maxMs)))
    try {
      const response = await ask(`${base}/-/status`, headers, timeoutMs)
      return judgeStatus(response.body) ?? notFocusBreaker(base, response)
    } catch (error) {
      return noResponse(base, error, timeoutMs)
    }
  }
  return {
    probe,
    next: async maxMs => {
      const askedAt = performance.now()
      const remainingMs = () => maxMs - (performance.now() - askedAt)
      // AbortSignal.timeout requires an integer.
      const holdMs = Math.ceil(Math.min(HOLD_MS, maxMs))
      try {
        const { statusCode, body } = await ask(
          `${base}/-/wait?timeout=${holdMs}ms`,
          headers,
          Math.ceil(Math.min(holdMs + PROXY_TIMEOUT_MS, maxMs + MIN_TIMEOUT_MS)),
        )
        const { admits, circuit } = membersOf(body)
        const { state, since } = membersOf(circuit)
        if (statusCode === 200 && admits === true && typeof since === 'string') {
          // An open circuit admits only by a manual override. The status has the reason.
          return state === 'open' ? probe(remainingMs()) : admitted(since, circuitOf(circuit))
        }
      } catch {
        // The probe that follows reports the failure.
      }
      // A proxy that is down, shutting down or full, or another server, responds at once. Pause before asking it again.
      const tookMs = performance.now() - askedAt
      if (tookMs < holdMs / 2) await sleep(Math.min(spread(PROXY_PAUSE_MS), remainingMs()))
      return probe(remainingMs())
    },
    close: async () => undefined,
  }
}

type Response = { readonly statusCode: number; readonly body: unknown; readonly redirectsTo?: string }

async function ask(url: string, headers: ProxyUrl['headers'], timeoutMs: number): Promise<Response> {
  const response = await request(url, {
    signal: AbortSignal.timeout(timeoutMs),
    headersTimeout: timeoutMs,
    headers: { accept: 'application/json', 'user-agent': 'focus-breaker', ...headers },
  })
  const body: unknown = await response.body.json().catch(() => undefined)
  const { statusCode } = response
  const { location } = response.headers
  const isRedirect = statusCode >= 300 && statusCode < 400 && typeof location === 'string'
  return { statusCode, body, ...(isRedirect ? { redirectsTo: redirectTarget(location, url) } : {}) }
}

function noResponse(base: string, error: unknown, timeoutMs: number): Verdict {
  const isTimeout = error instanceof DOMException && error.name === 'TimeoutError'
  const words = isTimeout ? `no response within ${inWords(timeoutMs)}` : failureOf(error).words
  return proxyUnreachable(`the proxy at ${base} cannot be reached: ${words}`)
}

function notFocusBreaker(base: string, { statusCode, redirectsTo }: Response): Verdict {
  // Redirects are not followed: credentials are meant for the given URL only. The pytest plugin does the same.
  return proxyUnreachable(
    redirectsTo === undefined
      ? `${base} responds, but is not focus-breaker (status ${statusCode})`
      : `${base} redirects to ${oneLine(redirectsTo).slice(0, 300)} (status ${statusCode}); if focus-breaker runs there, use that URL`,
  )
}

function proxyUnreachable(message: string): Verdict {
  return {
    ready: false,
    state: 'proxy_unreachable',
    message,
    reason: message,
    since: null,
    forMs: null,
    circuit: null,
    forecast: null,
  }
}

function admitted(
  since: string,
  circuit: CircuitSeen | null,
  forMs: number | null = null,
  duration = '',
): Verdict {
  const reason = 'ready'
  const known = { since, forMs, circuit, forecast: null }
  return { ready: true, state: 'ready', message: `ready${duration}`, reason, ...known }
}

/** Judges the response of `/-/status`; undefined if it does not come from focus-breaker. */
function judgeStatus(body: unknown): Verdict | undefined {
  const status = membersOf(body)
  const { admits, refusal } = status
  const { state, since, forMs } = membersOf(status.circuit)
  if (typeof admits !== 'boolean' || typeof state !== 'string' || !isTime(since)) return undefined
  // Do not use the clock of this machine, which may differ from the proxy's. Older proxies do not send `forMs`.
  const circuitForMs = spanOf(forMs)
  const duration = `: circuit ${state}${circuitForMs === null ? '' : ` for ${inWords(circuitForMs)}`}`
  const circuit = circuitOf(status.circuit)
  const within = outageInWords(since, circuitForMs, circuit?.outageStartedAt ?? null)
  const override = membersOf(status.override)
  const overridden = isTime(override.since)
    ? { since: override.since, forMs: spanOf(override.forMs) }
    : { since, forMs: circuitForMs }
  if (admits && override.state === 'closed') {
    const message = `ready: let through by an operator: ${oneLine(String(override.reason))}`
    return { ...admitted(since, circuit), ...overridden, message, reason: message }
  }
  if (admits) return admitted(since, circuit, circuitForMs, duration)
  const { problem } = membersOf(status.reading)
  const forecast = forecastOf(status.forecast)
  const outlook = forecast === null ? '' : `; ${forecastInWords(forecast)}`
  const known = { ready: false, since, forMs: circuitForMs, circuit, forecast }
  if (refusal === 'forced_open') {
    const refused = status.mode === 'observe' ? 'would be refused' : 'refused'
    const why = override.silent === true ? 'planned maintenance' : `${refused} by an operator`
    const message = `${why}: ${oneLine(String(override.reason))}`
    return { ...known, state: 'waiting', message, reason: message, ...overridden }
  }
  if (refusal === 'metadata_unavailable') {
    const why = typeof problem === 'string' ? `, ${oneLine(problem)}` : ''
    const reason = 'the state of the fiber is unknown'
    return {
      ...known,
      state: 'unreachable',
      message: `${reason}${duration}${within}${why}${outlook}`,
      reason: `${reason}${why}`,
    }
  }
  const reason = refusal === 'waiting_for_fiber' ? 'waiting for fiber' : oneLine(String(refusal))
  return { ...known, state: 'waiting', message: `${reason}${duration}${within}${outlook}`, reason }
}

function spanOf(value: unknown): number | null {
  return typeof value === 'number' ? value : null
}

function forecastOf(value: unknown): ForecastSeen | null {
  const { p50Seconds, p90Seconds, samples, confidence } = membersOf(value)
  if (typeof p50Seconds !== 'number' || typeof p90Seconds !== 'number') return null
  return {
    p50Seconds,
    p90Seconds,
    samples: typeof samples === 'number' ? samples : null,
    confidence: typeof confidence === 'string' ? oneLine(confidence) : null,
  }
}

/**
 * The duration of the whole outage, if the current state is only its last part. Both times are from the proxy's clock.
 */
function outageInWords(since: string, forMs: number | null, outageStartedAt: string | null): string {
  if (forMs === null || outageStartedAt === null) return ''
  return withinOutage(forMs, forMs + Date.parse(since) - Date.parse(outageStartedAt))
}

/** The circuit as the proxy reports it; null if it does not. */
function circuitOf(value: unknown): CircuitSeen | null {
  const { state, since, cause, outageStartedAt } = membersOf(value)
  if (typeof state !== 'string' || !isTime(since)) return null
  return {
    state: oneLine(state),
    since,
    cause: typeof cause === 'string' ? oneLine(cause) : null,
    outageStartedAt: isTime(outageStartedAt) ? outageStartedAt : null,
  }
}

function membersOf(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null ? { ...value } : {}
}

/** Varies a pause by up to half, so that clients that wait for the same event do not ask at the same time. */
export function spread(milliseconds: number): number {
  return milliseconds * (0.5 + Math.random())
}

function isTime(value: unknown): value is string {
  return typeof value === 'string' && !Number.isNaN(Date.parse(value))
}
