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

/** The flags that say where to look. */
export const LOOK_FLAGS: readonly Flag[] = [
  {
    name: 'proxy',
    value: 'URL',
    sentence:
      'ask a running proxy (default: FOCUS_BREAKER_URL; NODE_EXTRA_CA_CERTS=FILE for a self-signed certificate)',
  },
  { name: 'upstream', value: 'URL', sentence: 'look straight at focus-server' },
  { name: 'config', value: 'FILE', sentence: 'with --upstream: the predicates, timeouts and TLS to use' },
]

/** Looks at the fiber, once or again and again. */
export type Observer = {
  /** A look has a second, however little `maxMs` is. */
  readonly look: (maxMs?: number) => Promise<Verdict>
  /** Waits for news, `maxMs` at the most, and looks again. */
  readonly next: (maxMs: number) => Promise<Verdict>
  readonly close: () => Promise<void>
}

/** How long a proxy may take to answer, and how long it has though the time is over. */
const PROXY_TIMEOUT_MS = 5000
const LAST_WORD_MS = 1000

/** How long the proxy is asked to hold an answer back: other news than the fiber's return come that late. */
const HOLD_MS = 5000

/** How long a proxy that is not there is left alone, give or take a half. */
const PROXY_PAUSE_MS = 2000

/** The variable that names the proxy where no flag says where to look. */
const URL_VARIABLE = 'FOCUS_BREAKER_URL'

/** The observer that the arguments ask for, or all their faults. */
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
  // Our other clients read the same variable. A flag outranks it, also one for focus-server itself.
  const isByVariable = named === undefined && upstream === undefined
  const proxy = isByVariable ? environment[URL_VARIABLE]?.trim() || undefined : named
  const fault = (option: string, expected: string, given: string, source = '') =>
    faults.push({ option, source, expected, given })
  if ((proxy === undefined) === (upstream === undefined)) {
    const given = proxy === undefined ? 'neither' : 'both'
    // What was meant by a flag that nobody knows is not known.
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
    fault('--config', 'to stand with --upstream', 'without it')
  }
  if (args.flags.has('junit-skip-all') && !args.flags.has('junit')) {
    fault('--junit-skip-all', 'to stand with --junit', 'without it')
  }
  if (url !== undefined && faults.length === 0) return { ok: true, observer: observeProxy(url) }
  if (upstream === undefined) return { ok: false, faults }
  // Who asks a proxy needs no configuration, and an init container that waits for hours no memory for its schema.
  const [{ loadFor }, { observeUpstream }] = await Promise.all([
    import('./configuration.js'),
    import('./look-upstream.js'),
  ])
  const loaded = loadFor({ ...args, faults }, environment)
  return loaded.ok ? { ok: true, observer: observeUpstream(loaded.config) } : loaded
}

function observeProxy({ base, headers }: ProxyUrl): Observer {
  const look = async (maxMs = PROXY_TIMEOUT_MS): Promise<Verdict> => {
    const timeoutMs = Math.ceil(Math.min(PROXY_TIMEOUT_MS, Math.max(LAST_WORD_MS, maxMs)))
    try {
      const response = await ask(`${base}/-/status`, headers, timeoutMs)
      return judgeStatus(response.body) ?? stranger(base, response)
    } catch (error) {
      return gone(base, error, timeoutMs)
    }
  }
  return {
    look,
    next: async maxMs => {
      const askedAt = performance.now()
      const remainingMs = () => maxMs - (performance.now() - askedAt)
      // Whole, as AbortSignal.timeout wants it.
      const holdMs = Math.ceil(Math.min(HOLD_MS, maxMs))
      try {
        const { statusCode, body } = await ask(
          `${base}/-/wait?timeout=${holdMs}ms`,
          headers,
          Math.ceil(Math.min(holdMs + PROXY_TIMEOUT_MS, maxMs + LAST_WORD_MS)),
        )
        const { admits, circuit } = membersOf(body)
        const { state, since } = membersOf(circuit)
        if (statusCode === 200 && admits === true && typeof since === 'string') {
          // An open circuit admits by an operator's word alone, of which the status tells more.
          return state === 'open' ? look(remainingMs()) : admitted(since, circuitOf(circuit))
        }
      } catch {
        // The look that follows says what became of the proxy.
      }
      // Who is gone, shutting down, full or somebody else answers at once, and is not asked again without a pause.
      const tookMs = performance.now() - askedAt
      if (tookMs < holdMs / 2) await sleep(Math.min(spread(PROXY_PAUSE_MS), remainingMs()))
      return look(remainingMs())
    },
    close: async () => undefined,
  }
}

type Response = { readonly statusCode: number; readonly body: unknown; readonly redirectsTo?: string }

async function ask(url: string, headers: ProxyUrl['headers'], timeoutMs: number): Promise<Response> {
  const answer = await request(url, {
    signal: AbortSignal.timeout(timeoutMs),
    headersTimeout: timeoutMs,
    headers: { accept: 'application/json', 'user-agent': 'focus-breaker', ...headers },
  })
  const body: unknown = await answer.body.json().catch(() => undefined)
  const { statusCode } = answer
  const { location } = answer.headers
  const isRedirect = statusCode >= 300 && statusCode < 400 && typeof location === 'string'
  return { statusCode, body, ...(isRedirect ? { redirectsTo: redirectTarget(location, url) } : {}) }
}

function gone(base: string, error: unknown, timeoutMs: number): Verdict {
  const isTimeout = error instanceof DOMException && error.name === 'TimeoutError'
  const words = isTimeout ? `no answer within ${inWords(timeoutMs)}` : failureOf(error).words
  return proxyUnreachable(`the proxy at ${base} cannot be reached: ${words}`)
}

function stranger(base: string, { statusCode, redirectsTo }: Response): Verdict {
  // Not followed: credentials belong to the URL that was given, and the plugin for pytest does not follow either.
  return proxyUnreachable(
    redirectsTo === undefined
      ? `${base} answers, but not like focus-breaker (status ${statusCode})`
      : `${base} redirects to ${oneLine(redirectsTo).slice(0, 300)} (status ${statusCode}); if focus-breaker is there, use that URL`,
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
  spell = '',
): Verdict {
  const reason = 'ready'
  const known = { since, forMs, circuit, forecast: null }
  return { ready: true, state: 'ready', message: `ready${spell}`, reason, ...known }
}

/** What `/-/status` says; undefined when it is the answer of something else. */
function judgeStatus(body: unknown): Verdict | undefined {
  const status = membersOf(body)
  const { admits, refusal } = status
  const { state, since, forMs } = membersOf(status.circuit)
  if (typeof admits !== 'boolean' || typeof state !== 'string' || !isTime(since)) return undefined
  // Never by the clock here, which may differ from the proxy's. An older proxy does not say how long.
  const circuitForMs = spanOf(forMs)
  const spell = `: circuit ${state}${circuitForMs === null ? '' : ` for ${inWords(circuitForMs)}`}`
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
  if (admits) return admitted(since, circuit, circuitForMs, spell)
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
      message: `${reason}${spell}${within}${why}${outlook}`,
      reason: `${reason}${why}`,
    }
  }
  const reason = refusal === 'waiting_for_fiber' ? 'waiting for fiber' : oneLine(String(refusal))
  return { ...known, state: 'waiting', message: `${reason}${spell}${within}${outlook}`, reason }
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

/** The outage in which the present state is only the last part; both times are by the clock of the proxy. */
function outageInWords(since: string, forMs: number | null, outageStartedAt: string | null): string {
  if (forMs === null || outageStartedAt === null) return ''
  return withinOutage(forMs, forMs + Date.parse(since) - Date.parse(outageStartedAt))
}

/** The circuit as the proxy shows it; null where it does not. */
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

/** A half either way, so that those who wait for the same thing do not ask together. */
export function spread(milliseconds: number): number {
  return milliseconds * (0.5 + Math.random())
}

function isTime(value: unknown): value is string {
  return typeof value === 'string' && !Number.isNaN(Date.parse(value))
}
