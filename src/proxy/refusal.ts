import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Breaker } from '../breaker/breaker.js'
import type { Refusal } from '../breaker/events.js'
import type { Snapshot } from '../domain/decision.js'
import { overrideAsJson } from '../domain/override.js'
import { jitteredRetryAfterSeconds, type RetryAfter } from '../domain/retry-after.js'
import { rfc3339 } from '../domain/time.js'
import type { RefusalCode } from '../domain/vocabulary.js'

/** What a refusal needs besides the decision. */
export type RefusalOptions = {
  readonly breaker: Breaker
  /** Read anew at each refusal. */
  readonly settings: () => { readonly statusCode: number; readonly retryAfter: RetryAfter }
  /** In [0, 1). */
  readonly random: () => number
}

type Words = { readonly error: string; readonly message: string; readonly details: string }

/**
 * The words of each refusal. Clients of focus-server look for `waiting for fiber` in `error` and `message`,
 * so only a missing fiber says that.
 */
const WORDS: Readonly<Record<RefusalCode, Words>> = {
  waiting_for_fiber: {
    error: 'Cannot configure job: waiting for fiber',
    message:
      'System is waiting for fiber connection. Please ensure fiber is connected and metadata is available.',
    details: 'waiting for fiber',
  },
  metadata_unavailable: {
    error: 'Cannot configure job: metadata unavailable',
    message:
      "focus-server's metadata cannot be read, so nobody knows whether its fiber is connected. Requests pass again once it can be read and says so.",
    details: 'metadata unavailable',
  },
  recovering: {
    error: 'Cannot configure job: recovering',
    message: 'The fiber is back, and requests are let in a few at a time. Please try again in a moment.',
    details: 'recovering',
  },
  overloaded: {
    error: 'Cannot configure job: overloaded',
    message: 'As many requests as the site allows are under way. Please try again in a moment.',
    details: 'overloaded',
  },
  forced_open: {
    error: 'Cannot configure job: refused by an operator',
    message: 'An operator has stopped these requests for a time; the reason is given.',
    details: 'refused by an operator',
  },
}

/** One line for people about why a request is refused. */
export function refusalWords(code: RefusalCode): string {
  return WORDS[code].details
}

/**
 * Answers a refused request: nothing of its body is read.
 *
 * @param line the answer for whoever asks for plain text alone; without it they get JSON like everybody.
 */
export function refuse(
  request: FastifyRequest,
  reply: FastifyReply,
  decision: Refusal,
  clientPrefix: string,
  options: RefusalOptions,
  line?: string,
): void {
  const { random, breaker } = options
  const { statusCode, retryAfter } = options.settings()
  const seconds = jitteredRetryAfterSeconds(decision.retryInMs, retryAfter, random())
  const { details } = WORDS[decision.code]
  const { accept } = request.headers
  reply
    .code(statusCode)
    .header('retry-after', seconds)
    .header('cache-control', 'no-store')
    .header('proxy-status', `focus-breaker; error=destination_unavailable; details="${details}"`)
    .header('link', `<${clientPrefix}/-/status>; rel="status"`)
  if (line !== undefined && wantsText(accept)) {
    sendLine(reply, line)
    return
  }
  const facts = factsOf(decision, breaker, seconds, request.id)
  const isProblem = accept?.includes('application/problem+json') ?? false
  reply
    .header('content-type', isProblem ? 'application/problem+json' : 'application/json')
    // A Buffer, because a schema of the route would drop what it does not know.
    .send(Buffer.from(JSON.stringify(isProblem ? problemOf(decision.code, statusCode, facts) : facts)))
}

/** Answers with one line of text. */
export function sendLine(reply: FastifyReply, line: string): void {
  reply
    .header('cache-control', 'no-store')
    .header('content-type', 'text/plain; charset=utf-8')
    .send(Buffer.from(`${line}\n`))
}

/** Text is for whoever asks for it by name, and not for JSON as well. */
export function wantsText(accept: string | undefined): boolean {
  return accept?.includes('text/plain') === true && !accept.includes('json')
}

type Facts = Readonly<Record<string, unknown>> & { readonly error: string; readonly message: string }

function factsOf(decision: Refusal, breaker: Breaker, retryAfterSeconds: number, requestId: string): Facts {
  const snapshot = breaker.snapshot()
  const { circuit, reading, lastReadyAt, override } = snapshot
  const forecast = breaker.forecast()
  return {
    error: WORDS[decision.code].error,
    message: WORDS[decision.code].message,
    status: decision.code,
    reason: reasonOf(decision.code, snapshot),
    details: reading === null || reading.kind === 'unreachable' ? {} : reading.metadata,
    forwarded: false,
    retryAfterSeconds,
    circuit: { state: circuit.state, since: rfc3339(circuit.since) },
    observedAt: reading === null ? null : rfc3339(reading.at),
    lastReadyAt: lastReadyAt === null ? null : rfc3339(lastReadyAt),
    // The end of an override is told by the override.
    ...(forecast !== null && decision.code !== 'forced_open' && { forecast }),
    ...(decision.code === 'forced_open' && override !== null && { override: overrideAsJson(override) }),
    requestId,
  }
}

/** The same facts with the members of RFC 9457, whose numeric `status` takes the place of ours. */
function problemOf(code: RefusalCode, statusCode: number, facts: Facts): Facts {
  const { error, message, status: _, ...rest } = facts
  return {
    type: `urn:problem-type:focus-breaker:${code}`,
    title: error,
    status: statusCode,
    detail: message,
    instance: `urn:uuid:${rest.requestId}`,
    code,
    error,
    message,
    ...rest,
  }
}

function reasonOf(code: RefusalCode, { circuit, reading, override }: Snapshot): string {
  switch (code) {
    case 'forced_open':
      return override?.reason ?? 'override'
    case 'recovering':
      if (circuit.state === 'open') return 'The fiber is back, and one more look is awaited'
      return 'As many requests as are allowed are under way'
    case 'overloaded':
      return 'As many requests as are allowed are under way'
    case 'waiting_for_fiber':
      // The last reading may be a failed probe in the middle of the outage; the cause is still the fiber.
      return reading?.kind === 'waiting'
        ? `Missing required fiber metadata fields: ${reading.missing.join(', ')}`
        : 'Missing required fiber metadata fields'
    case 'metadata_unavailable':
      return reading?.kind === 'unreachable'
        ? `Metadata could not be read: ${reading.problem}`
        : 'Metadata has not been read yet'
  }
}
