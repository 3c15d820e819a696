import { request } from 'undici'
import { type Fault, withoutCredentials } from '../config/fault.js'
import { inWords } from '../domain/time.js'
import { steadyClock } from '../upstream/clock.js'
import { upstreamAgent } from '../upstream/dispatcher.js'
import { failureOf } from '../upstream/failure.js'
import { MetadataReader, metadataUrl } from '../upstream/metadata.js'
import type { Arguments, Flag } from './arguments.js'
import { loadFor, usage } from './serve.js'

/** The flags of `check`. */
export const CHECK_FLAGS: readonly Flag[] = [
  {
    name: 'proxy',
    value: 'URL',
    sentence: 'ask a running proxy (NODE_EXTRA_CA_CERTS=FILE for a self-signed one)',
  },
  { name: 'upstream', value: 'URL', sentence: 'look straight at focus-server' },
  { name: 'config', value: 'FILE', sentence: 'with --upstream: the predicates, timeouts and TLS to use' },
  { name: 'json', sentence: 'print JSON' },
]

/** What a look found, whichever way it was taken. */
export type Verdict = {
  readonly ready: boolean
  readonly state: 'ready' | 'waiting' | 'unreachable' | 'proxy_unreachable'
  /** One line for people. */
  readonly message: string
}

/** How long a proxy may take to answer. */
const PROXY_TIMEOUT_MS = 5000

/** The exit code of each state. */
const EXIT_CODE: Readonly<Record<Verdict['state'], number>> = {
  ready: 0,
  waiting: 3,
  unreachable: 4,
  proxy_unreachable: 5,
}

/** One look: prints what it found, and answers the exit code. */
export async function check(args: Arguments, environment: NodeJS.ProcessEnv): Promise<number> {
  const faults: Fault[] = [...args.faults]
  const proxy = args.flags.get('proxy')
  const upstream = args.flags.get('upstream')
  if ((proxy === undefined) === (upstream === undefined)) {
    const given = proxy === undefined ? 'neither' : 'both'
    faults.push({
      option: '',
      source: 'command line',
      expected: 'either --proxy URL or --upstream URL',
      given,
    })
  }
  if (proxy !== undefined && !isHttpUrl(proxy)) {
    faults.push({
      option: '--proxy',
      source: '',
      expected: 'an http or https URL, like http://localhost:8080',
      given: proxy,
    })
  }
  if (upstream === undefined && args.flags.has('config')) {
    faults.push({ option: '--config', source: '', expected: 'to stand with --upstream', given: 'without it' })
  }
  if (proxy !== undefined && faults.length === 0) return report(await askProxy(proxy), args)
  if (upstream === undefined) return usage(faults)
  const loaded = loadFor({ ...args, faults }, environment)
  if (!loaded.ok) return usage(loaded.faults)
  const { config } = loaded
  const agent = upstreamAgent(config.upstream, 1)
  const reader = new MetadataReader({
    dispatcher: agent,
    url: metadataUrl(config.upstream.url, config.probe.path),
    settings: () => ({ timeoutMs: config.probe.timeoutMs, readyWhen: config.fiber.readyWhen }),
    clock: steadyClock,
    observe: () => undefined,
  })
  const { reading } = await reader.read('probe')
  await agent.destroy()
  switch (reading.kind) {
    case 'ready':
      return report({ ready: true, state: 'ready', message: 'ready: the fiber is connected' }, args)
    case 'waiting': {
      const message = `waiting for fiber: missing ${reading.missing.join(', ')}`
      return report({ ready: false, state: 'waiting', message }, args)
    }
    case 'unreachable': {
      const message = `focus-server's metadata cannot be read: ${reading.problem}`
      return report({ ready: false, state: 'unreachable', message }, args)
    }
  }
}

function report(verdict: Verdict, args: Arguments): number {
  process.stdout.write(args.flags.has('json') ? `${JSON.stringify(verdict)}\n` : `${verdict.message}\n`)
  return EXIT_CODE[verdict.state]
}

async function askProxy(proxy: string): Promise<Verdict> {
  const shown = withoutCredentials(proxy)
  try {
    const answer = await request(`${proxy.replace(/\/+$/, '')}/-/status`, {
      signal: AbortSignal.timeout(PROXY_TIMEOUT_MS),
      headersTimeout: PROXY_TIMEOUT_MS,
    })
    const body: unknown = await answer.body.json().catch(() => undefined)
    const status = statusOf(body)
    if (answer.statusCode !== 200 || status === undefined) {
      const message = `${shown} answers, but not like focus-breaker (status ${answer.statusCode})`
      return { ready: false, state: 'proxy_unreachable', message }
    }
    return judge(status)
  } catch (error) {
    const isTimeout = error instanceof DOMException && error.name === 'TimeoutError'
    const words = isTimeout ? `no answer within ${PROXY_TIMEOUT_MS / 1000} s` : failureOf(error).words
    return {
      ready: false,
      state: 'proxy_unreachable',
      message: `the proxy at ${shown} cannot be reached: ${words}`,
    }
  }
}

type ProxyStatus = {
  readonly admits: boolean
  readonly state: string
  readonly refusal: string
  readonly since: number
  readonly problem: string | undefined
  readonly overrideReason: string | undefined
}

function judge({ admits, state, refusal, since, problem, overrideReason }: ProxyStatus): Verdict {
  const spell = `circuit ${state} for ${inWords(Date.now() - since)}`
  if (admits) return { ready: true, state: 'ready', message: `ready: ${spell}` }
  if (refusal === 'forced_open') {
    return { ready: false, state: 'waiting', message: `refused by an operator: ${overrideReason}` }
  }
  if (refusal === 'metadata_unavailable') {
    const why = problem === undefined ? '' : `, ${problem}`
    return {
      ready: false,
      state: 'unreachable',
      message: `the state of the fiber is unknown: ${spell}${why}`,
    }
  }
  const what = refusal === 'waiting_for_fiber' ? 'waiting for fiber' : refusal
  return { ready: false, state: 'waiting', message: `${what}: ${spell}` }
}

/** What is read of `/-/status`; undefined when it is the answer of something else. */
function statusOf(body: unknown): ProxyStatus | undefined {
  const { admits, refusal, circuit, override, reading } = fieldsOf(body)
  const { state, since } = fieldsOf(circuit)
  if (typeof admits !== 'boolean' || typeof state !== 'string' || typeof since !== 'string') return undefined
  const { reason } = fieldsOf(override)
  const { problem } = fieldsOf(reading)
  return {
    admits,
    state,
    since: Date.parse(since),
    refusal: typeof refusal === 'string' ? refusal : '',
    problem: typeof problem === 'string' ? problem : undefined,
    overrideReason: typeof reason === 'string' ? reason : undefined,
  }
}

function fieldsOf(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null ? { ...value } : {}
}

function isHttpUrl(text: string): boolean {
  return URL.canParse(text) && /^https?:$/.test(new URL(text).protocol)
}
