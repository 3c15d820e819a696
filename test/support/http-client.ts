import type { TestContext } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { Agent, type Dispatcher, request } from 'undici'
import { at, type LogLine, type RunningProxy } from './harness.js'
import { live } from './simulate.js'

/** What focus-server says when a configure fails because the fiber is missing. */
export const MISSING = 'Cannot proceed: Missing required fiber metadata fields: prr'

/** One probe at the start, and none during the test. */
export const NO_PROBES = { FOCUS_BREAKER_PROBE_PERIOD_MS: '60000' }

/** Probes as fast as a test needs them, and no ramp. */
export const FAST = { FOCUS_BREAKER_PROBE_PERIOD_MS: '100', FOCUS_BREAKER_RECOVERY_RAMP_MS: '0' }

/** A whole response. */
export interface Answer {
  readonly statusCode: number
  readonly headers: Readonly<Record<string, string | string[] | undefined>>
  readonly bytes: Buffer
  /** The body as JSON; undefined if it is not JSON. */
  readonly json: unknown
}

/** A connection pool for many clients, closed with the test. */
export function clientPool(t: TestContext, connections: number): Agent {
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

/** Sends one request and reads the whole response. */
export async function ask(url: string, { headers = {}, ...options }: Ask = {}): Promise<Answer> {
  const { statusCode, headers: fields, body } = await request(url, { ...options, headers: { ...headers } })
  const bytes = Buffer.from(await body.arrayBuffer())
  return { statusCode, headers: fields, bytes, json: parsed(bytes) }
}

/** Sends `POST /configure` with a live job, unless another body is given. */
export function configure(proxy: { readonly url: string }, options: Ask = {}): Promise<Answer> {
  const headers = { 'content-type': 'application/json', ...options.headers }
  return ask(`${proxy.url}/configure`, { body: JSON.stringify(live), ...options, method: 'POST', headers })
}

/** Fetches the metadata straight from the upstream, which is a reading of source `client`. */
export function readThroughProxy(proxy: { readonly url: string }): Promise<Answer> {
  return ask(`${proxy.url}/live_metadata`, { headers: { 'cache-control': 'no-cache' } })
}

/** Runs this many clients at the same time. */
export async function runClients(size: number, client: (index: number) => Promise<void>): Promise<void> {
  await Promise.all(Array.from({ length: size }, (_, index) => client(index)))
}

/** The transitions so far, as `closed>open:waiting`. */
export function transitions(proxy: RunningProxy): string[] {
  return transitionLines(proxy).map(line => `${line.from}>${line.to}:${line.cause}`)
}

/** The log lines about transitions, except the one of the start. */
export function transitionLines(proxy: RunningProxy): LogLine[] {
  return proxy.logs().filter(line => 'cause' in line && line.cause !== 'starting')
}

/** Whether a response is the upstream's own about the missing fiber, and not a refusal of the proxy. */
export function isMissingFiber({ json }: Answer): boolean {
  return typeof at(json, 'detail') === 'string' && at(json, 'forwarded') === undefined
}

/** How long to wait in tests that assert that nothing happens. */
export const aWhile = () => delay(300)

function parsed(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString())
  } catch {
    return undefined
  }
}
