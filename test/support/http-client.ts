import type { TestContext } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { Agent, type Dispatcher, request } from 'undici'
import { at, type LogLine, type RunningProxy } from './harness.js'
import { live } from './simulate.js'

/** What focus-server says when a configure fails for want of a fiber. */
export const MISSING = 'Cannot proceed: Missing required fiber metadata fields: prr'

/** A probe at the start, and none in the time that a test takes. */
export const NO_PROBES = { FOCUS_BREAKER_PROBE_PERIOD_MS: '60000' }

/** Probes as fast as a test wants them, and no ramp. */
export const FAST = { FOCUS_BREAKER_PROBE_PERIOD_MS: '100', FOCUS_BREAKER_RECOVERY_RAMP_MS: '0' }

/** A whole answer. */
export interface Answer {
  readonly statusCode: number
  readonly headers: Readonly<Record<string, string | string[] | undefined>>
  readonly bytes: Buffer
  /** The body as JSON; undefined when it is none. */
  readonly json: unknown
}

/** A pool of connections for a crowd of clients, closed with the test. */
export function crowdAgent(t: TestContext, connections: number): Agent {
  const agent = new Agent({ connections, keepAliveTimeout: 60_000, headersTimeout: 120_000 })
  t.after(() => agent.destroy())
  return agent
}

export interface Ask {
  readonly method?: Dispatcher.HttpMethod
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string | Buffer
  readonly dispatcher?: Dispatcher
  readonly signal?: AbortSignal
}

/** Sends one request and reads the whole answer. */
export async function ask(url: string, { headers = {}, ...options }: Ask = {}): Promise<Answer> {
  const { statusCode, headers: fields, body } = await request(url, { ...options, headers: { ...headers } })
  const bytes = Buffer.from(await body.arrayBuffer())
  return { statusCode, headers: fields, bytes, json: parsed(bytes) }
}

/** `POST /configure` of a live job, unless another body is given. */
export function configure(proxy: { readonly url: string }, options: Ask = {}): Promise<Answer> {
  const headers = { 'content-type': 'application/json', ...options.headers }
  return ask(`${proxy.url}/configure`, { body: JSON.stringify(live), ...options, method: 'POST', headers })
}

/** The metadata straight from the upstream, and so a reading of source `client`. */
export function lookThrough(proxy: { readonly url: string }): Promise<Answer> {
  return ask(`${proxy.url}/live_metadata`, { headers: { 'cache-control': 'no-cache' } })
}

/** Runs that many clients at the same time. */
export async function crowd(size: number, client: (index: number) => Promise<void>): Promise<void> {
  await Promise.all(Array.from({ length: size }, (_, index) => client(index)))
}

/** The transitions so far, as `closed>open:waiting`. */
export function transitions(proxy: RunningProxy): string[] {
  return transitionLines(proxy).map(line => `${line.from}>${line.to}:${line.cause}`)
}

/** The lines of the log that tell of transitions, but for the start's own. */
export function transitionLines(proxy: RunningProxy): LogLine[] {
  return proxy.logs().filter(line => 'cause' in line && line.cause !== 'starting')
}

/** Whether an answer is the upstream's own about the missing fiber, and not a refusal of the proxy's. */
export function isMissingFiber({ json }: Answer): boolean {
  return typeof at(json, 'detail') === 'string' && at(json, 'forwarded') === undefined
}

/** Time for something to go wrong in, where nothing shall happen. */
export const aWhile = () => delay(300)

function parsed(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString())
  } catch {
    return undefined
  }
}
