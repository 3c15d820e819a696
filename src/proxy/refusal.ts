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

/** What a refusal needs besides the decision. */
export type RefusalOptions = {
  readonly breaker: Breaker
  /** Read again at each refusal. */
  readonly settings: () => { readonly statusCode: number; readonly retryAfter: RetryAfter }
  /** In [0, 1). */
  readonly random: () => number
  /** The replicas that this process is one of, if there may be several. */
  readonly group?: ReplicaGroup | undefined
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

const PLANNED: Words = {
  error: 'Cannot configure job: planned maintenance',
  message: 'These requests are stopped for planned maintenance; the reason is given.',
  details: 'planned maintenance',
}

/** The recovery of a focus-server whose metadata could not be read: its fiber need not have been missing. */
const RECOVERING_SERVER: Words = {
  ...WORDS.recovering,
  message:
    "focus-server's metadata can be read again, and requests are let in a few at a time. Please try again in a moment.",
}

/** The recovery of a focus-server that contradicts itself: whether its fiber is back is not known. */
const RECOVERING_IN_DOUBT: Words = {
  ...WORDS.recovering,
  message:
    "focus-server's metadata says that the fiber is back, its last response to configure that it is missing. Requests are let in a few at a time. Please try again in a moment.",
}

/** What a refusal says: a silent override is a planned maintenance. */
function wordsOf(code: RefusalCode, { override, circuit }: Snapshot, isContradicted: boolean): Words {
  if (code === 'forced_open' && override?.silent === true) return PLANNED
  if (code === 'recovering' && isContradicted) return RECOVERING_IN_DOUBT
  return code === 'recovering' && isUnreachable(circuit) ? RECOVERING_SERVER : WORDS[code]
}

function isUnreachable(circuit: Snapshot['circuit']): boolean {
  return circuit.state !== 'closed' && circuit.cause === 'unreachable'
}

/** One line for people about why a request is refused. */
export function refusalWords(code: RefusalCode): string {
  return WORDS[code].details
}

/**
 * Makes refusals. The body is the same for every client but for `Retry-After` and the request's id, so it is made once
 * per change of what is known, and not for each request.
 */
export class Refusals {
  readonly #options: RefusalOptions
  #known: Known | undefined

  constructor(options: RefusalOptions) {
    this.#options = options
  }

  /** The refusal as a whole response. Nothing of the request's body is read for it. */
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
    // A Buffer, because a schema of the route would drop what it does not know.
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
  /** What stands before our own routes in the client's URLs. */
  readonly clientPrefix: string
  /** In place of `guard.statusCode`. */
  readonly statusCode?: number | undefined
}

/** How one of our own routes wants the refusal. */
export type RefusalForm = Partial<Pick<Refused, 'clientPrefix' | 'statusCode'>> & {
  /** The refusal in one line, for a client that asks for text. */
  readonly line?: string
}

/** Stand in the text for what differs from one refusal to the next. */
const SECONDS_MARK = '-7777777'
const ID_MARK = '\u0007'

/** What a refusal says at one moment. */
class Known {
  readonly proxyStatus: string
  readonly isAscii: boolean
  readonly #code: RefusalCode
  readonly #snapshot: Snapshot
  readonly #forecast: Forecast | null
  readonly #isContradicted: boolean
  readonly #replica: string | undefined
  /** The body before, between and behind the seconds and the id. */
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
    // The last of its kind: the metadata before it may hold anything.
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

/** Answers with one line of text. */
export function sendLine(reply: FastifyReply, line: string): void {
  reply
    .header('cache-control', 'no-store')
    .header('content-type', 'text/plain; charset=utf-8')
    .send(Buffer.from(`${line}\n`))
}

/** Only a client that asks for text by name, and not for JSON as well, gets it. */
export function wantsText(accept: string | undefined): boolean {
  return accept?.includes('text/plain') === true && !accept.includes('json')
}

type Facts = Readonly<Record<string, unknown>> & { readonly error: string; readonly message: string }

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
          ? 'The metadata says that the fiber is back'
          : isUnreachable(circuit)
            ? 'The metadata can be read again'
            : 'The fiber is back'
        return `${what}, and one more look is awaited`
      }
      return 'As many requests as are allowed are under way'
    case 'overloaded':
      return 'As many requests as are allowed are under way'
    case 'waiting_for_fiber':
      // The last reading may be a failed probe in the middle of the outage; the cause is still the fiber.
      return reading?.kind === 'waiting'
        ? `Missing required fiber metadata fields: ${reading.missing.join(', ')}`
        : 'Missing required fiber metadata fields'
    case 'metadata_unavailable':
      if (reading?.kind === 'unreachable') return `Metadata could not be read: ${reading.problem}`
      // A single reading of another kind has not changed the cause.
      return reading === null ? 'Metadata has not been read yet' : 'Metadata could not be read'
  }
}
