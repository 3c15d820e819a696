import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Breaker } from '../breaker/breaker.js'
import type { Refusal } from '../breaker/events.js'
import { circuitAsJson } from '../domain/circuit.js'
import type { Snapshot } from '../domain/decision.js'
import type { Forecast } from '../domain/outage.js'
import { overrideAsJson } from '../domain/override.js'
import { nameAmongSeveral, type ReplicaGroup } from '../domain/replica-group.js'
import { jitteredRetryAfterSeconds, type RetryAfter } from '../domain/retry-after.js'
import { rfc3339 } from '../domain/time.js'
import type { RefusalCode } from '../domain/vocabulary.js'
import type { OwnResponse } from '../server/error-response.js'

/** Dependencies of the refusals. */
export type RefusalOptions = {
  readonly breaker: Breaker
  /** Called for each refusal. */
  readonly settings: () => { readonly statusCode: number; readonly retryAfter: RetryAfter }
  /** In [0, 1). */
  readonly random: () => number
  /** The group of replicas that this process belongs to, if there may be several. */
  readonly group?: ReplicaGroup | undefined
}

type Words = { readonly error: string; readonly message: string; readonly details: string }

/**
 * The texts of each refusal. Clients of focus-server search for `waiting for fiber` in `error` and `message`, so only
 * the refusal for a missing fiber contains it.
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
      "focus-server's metadata cannot be read, so it is unknown whether its fiber is connected. Requests are admitted again once the metadata can be read and shows a connected fiber.",
    details: 'metadata unavailable',
  },
  recovering: {
    error: 'Cannot configure job: recovering',
    message: 'The fiber is back, and requests are admitted a few at a time. Please try again in a moment.',
    details: 'recovering',
  },
  overloaded: {
    error: 'Cannot configure job: overloaded',
    message: 'The maximum number of concurrent requests is reached. Please try again in a moment.',
    details: 'overloaded',
  },
  forced_open: {
    error: 'Cannot configure job: refused by an operator',
    message: 'An operator has temporarily stopped these requests; see the reason.',
    details: 'refused by an operator',
  },
}

const PLANNED: Words = {
  error: 'Cannot configure job: planned maintenance',
  message: 'These requests are stopped for planned maintenance; see the reason.',
  details: 'planned maintenance',
}

/** For a recovery after unreadable metadata: the fiber may never have been missing. */
const RECOVERING_SERVER: Words = {
  ...WORDS.recovering,
  message:
    "focus-server's metadata can be read again, and requests are admitted a few at a time. Please try again in a moment.",
}

/** For a recovery while focus-server contradicts itself: it is unknown whether the fiber is back. */
const RECOVERING_CONTRADICTED: Words = {
  ...WORDS.recovering,
  message:
    "focus-server's metadata shows that the fiber is back, but its last response to a configure request reported it as missing. Requests are admitted a few at a time. Please try again in a moment.",
}

/** The texts of a refusal. A silent override is planned maintenance. */
function wordsOf(code: RefusalCode, { override, circuit }: Snapshot, isContradicted: boolean): Words {
  if (code === 'forced_open' && override?.silent === true) return PLANNED
  if (code === 'recovering' && isContradicted) return RECOVERING_CONTRADICTED
  return code === 'recovering' && isUnreachable(circuit) ? RECOVERING_SERVER : WORDS[code]
}

function isUnreachable(circuit: Snapshot['circuit']): boolean {
  return circuit.state !== 'closed' && circuit.cause === 'unreachable'
}

/** One line for people that states why a request is refused. */
export function refusalWords(code: RefusalCode): string {
  return WORDS[code].details
}

/**
 * Creates refusals. Except for `Retry-After` and the request id, the body is the same for every client. It is therefore
 * built once per change of state, not per request.
 */
export class Refusals {
  readonly #options: RefusalOptions
  #known: Known | undefined

  constructor(options: RefusalOptions) {
    this.#options = options
  }

  /** The refusal as a complete response. The request body is not read for it. */
  response(request: Refused, decision: Refusal): OwnResponse {
    const { random, settings } = this.#options
    const { statusCode: usual, retryAfter } = settings()
    const { statusCode = usual } = request
    const seconds = jitteredRetryAfterSeconds(decision.retryInMs, retryAfter, random())
    const isProblem = request.accept?.includes('application/problem+json') ?? false
    const known = this.#knownFor(decision.code)
    const headers: readonly string[] = [
      'retry-after',
      String(seconds),
      'cache-control',
      'no-store',
      'proxy-status',
      known.proxyStatus,
      'link',
      `<${request.clientPrefix}/-/status>; rel="status"`,
      'content-type',
      isProblem ? 'application/problem+json' : 'application/json',
    ]
    const body = isProblem
      ? JSON.stringify(problemOf(decision.code, statusCode, known.facts(seconds, request.id)))
      : known.text(seconds, request.id)
    return { statusCode, headers, body, isAscii: known.isAscii && !isProblem }
  }

  /** Answers one of our own routes with the refusal. */
  send(request: FastifyRequest, reply: FastifyReply, decision: Refusal, form: RefusalForm = {}): void {
    const { line, clientPrefix = '' } = form
    const { accept } = request.headers
    const { statusCode, headers, body } = this.response(
      { id: request.id, accept, clientPrefix, statusCode: form.statusCode },
      decision,
    )
    reply.code(statusCode)
    for (let index = 0; index + 1 < headers.length; index += 2)
      reply.header(headers[index] ?? '', headers[index + 1])
    if (line !== undefined && wantsText(accept)) sendLine(reply, line)
    // A Buffer, because the route's schema would drop unknown members.
    else reply.send(Buffer.from(body))
  }

  #knownFor(code: RefusalCode): Known {
    const { breaker, group } = this.#options
    const snapshot = breaker.snapshot()
    const forecast = breaker.forecast()
    const isContradicted = breaker.disagreement !== null
    const replica = nameAmongSeveral(group)
    if (this.#known?.isOf(code, snapshot, forecast, isContradicted, replica) !== true)
      this.#known = new Known(code, snapshot, forecast, isContradicted, replica)
    return this.#known
  }
}

/** A request that is refused. */
export type Refused = {
  readonly id: string
  readonly accept: string | undefined
  /** The prefix of our own routes in the client's URLs. */
  readonly clientPrefix: string
  /** Replaces `guard.statusCode`. */
  readonly statusCode?: number | undefined
}

/** Options of a refusal from one of our own routes. */
export type RefusalForm = Partial<Pick<Refused, 'clientPrefix' | 'statusCode'>> & {
  /** The refusal as one line, for a client that asks for text. */
  readonly line?: string
}

/** Placeholders for the parts that differ between refusals. */
const SECONDS_MARK = '-7777777'
const ID_MARK = '\u0007'

/** The prepared refusal for one state. */
class Known {
  readonly proxyStatus: string
  readonly isAscii: boolean
  readonly #code: RefusalCode
  readonly #snapshot: Snapshot
  readonly #forecast: Forecast | null
  readonly #isContradicted: boolean
  readonly #replica: string | undefined
  /** The parts of the body before, between and after the seconds and the id. */
  readonly #parts: readonly [string, string, string]

  constructor(
    code: RefusalCode,
    snapshot: Snapshot,
    forecast: Forecast | null,
    isContradicted: boolean,
    replica: string | undefined,
  ) {
    this.#isContradicted = isContradicted
    this.#replica = replica
    this.#code = code
    this.#snapshot = snapshot
    this.#forecast = forecast
    this.proxyStatus = `focus-breaker; error=destination_unavailable; details="${wordsOf(code, snapshot, isContradicted).details}"`
    const text = JSON.stringify(this.facts(Number(SECONDS_MARK), ID_MARK))
    this.isAscii = /^[\x20-\x7e]*$/.test(text)
    // Use the last occurrence: the metadata before it may contain anything.
    const seconds = text.lastIndexOf(`"retryAfterSeconds":${SECONDS_MARK}`) + '"retryAfterSeconds":'.length
    const id = text.lastIndexOf(JSON.stringify(ID_MARK))
    this.#parts = [
      text.slice(0, seconds),
      text.slice(seconds + SECONDS_MARK.length, id + 1),
      text.slice(id + JSON.stringify(ID_MARK).length - 1),
    ]
  }

  isOf(
    code: RefusalCode,
    { circuit, reading, override, lastReadyAt }: Snapshot,
    forecast: Forecast | null,
    isContradicted: boolean,
    replica: string | undefined,
  ): boolean {
    const known = this.#snapshot
    return (
      code === this.#code &&
      circuit === known.circuit &&
      reading === known.reading &&
      override === known.override &&
      lastReadyAt === known.lastReadyAt &&
      forecast === this.#forecast &&
      isContradicted === this.#isContradicted &&
      replica === this.#replica
    )
  }

  text(seconds: number, requestId: string): string {
    const [before, between, behind] = this.#parts
    return `${before}${seconds}${between}${requestId}${behind}`
  }

  facts(retryAfterSeconds: number, requestId: string): Facts {
    const code = this.#code
    const { circuit, reading, lastReadyAt, override } = this.#snapshot
    const { error, message } = wordsOf(code, this.#snapshot, this.#isContradicted)
    return {
      error,
      message,
      status: code,
      reason: reasonOf(code, this.#snapshot, this.#isContradicted),
      details: reading === null || reading.kind === 'unreachable' ? {} : reading.metadata,
      forwarded: false,
      retryAfterSeconds,
      circuit: circuitAsJson(circuit),
      observedAt: reading === null ? null : rfc3339(reading.at),
      lastReadyAt: lastReadyAt === null ? null : rfc3339(lastReadyAt),
      // An override has its own end.
      ...(this.#forecast !== null && code !== 'forced_open' && { forecast: this.#forecast }),
      ...(code === 'forced_open' && override !== null && { override: overrideAsJson(override) }),
      ...(this.#replica !== undefined && { replica: this.#replica }),
      requestId,
    }
  }
}

/** Responds with one line of text. */
export function sendLine(reply: FastifyReply, line: string): void {
  reply
    .header('cache-control', 'no-store')
    .header('content-type', 'text/plain; charset=utf-8')
    .send(Buffer.from(`${line}\n`))
}

/** Whether the client asks for plain text by name, and not for JSON as well. */
export function wantsText(accept: string | undefined): boolean {
  return accept?.includes('text/plain') === true && !accept.includes('json')
}

type Facts = Readonly<Record<string, unknown>> & { readonly error: string; readonly message: string }

/** The same facts with the members of RFC 9457, whose numeric `status` replaces ours. */
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

function reasonOf(
  code: RefusalCode,
  { circuit, reading, override }: Snapshot,
  isContradicted: boolean,
): string {
  switch (code) {
    case 'forced_open':
      return override?.reason ?? 'override'
    case 'recovering':
      if (circuit.state === 'open') {
        const what = isContradicted
          ? 'The metadata shows that the fiber is back'
          : isUnreachable(circuit)
            ? 'The metadata can be read again'
            : 'The fiber is back'
        return `${what}; waiting for one more successful probe`
      }
      return 'The maximum number of concurrent requests is reached'
    case 'overloaded':
      return 'The maximum number of concurrent requests is reached'
    case 'waiting_for_fiber':
      // The last reading may be a failed probe during the outage; the cause is still the fiber.
      return reading?.kind === 'waiting'
        ? `Missing required fiber metadata fields: ${reading.missing.join(', ')}`
        : 'Missing required fiber metadata fields'
    case 'metadata_unavailable':
      if (reading?.kind === 'unreachable') return `Metadata could not be read: ${reading.problem}`
      // A single reading of another kind has not changed the cause.
      return reading === null ? 'Metadata has not been read yet' : 'Metadata could not be read'
  }
}
