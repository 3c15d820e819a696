import type { FastifyInstance, FastifyReply } from 'fastify'
import type { Breaker } from '../breaker/breaker.js'
import type { Refusal } from '../breaker/events.js'
import type { WaitingRoom } from '../breaker/waiting-room.js'
import { isHistoric } from '../domain/configure-request.js'
import type { Decision } from '../domain/decision.js'
import { waitSeconds } from '../domain/prefer.js'
import type { GuardScope } from '../domain/vocabulary.js'
import { type Connections, whenOver } from '../server/connection.js'
import type { CorsPolicy } from '../server/cors.js'
import { respond } from '../server/error-response.js'
import { awaitsContinue, readBody } from '../server/read-body.js'
import type { Exchange } from './exchange.js'
import type { Refusals } from './refusal.js'
import { type BodyLimits, hasSmallBody, receiveBody } from './request-body.js'

/** Dependencies of the guard. */
export type GuardOptions = BodyLimits & {
  readonly breaker: Breaker
  readonly waitingRoom: WaitingRoom
  readonly refusals: Refusals
  readonly connections: Connections
  readonly cors: CorsPolicy
  /** Called for each request that is not admitted. */
  readonly scope: () => GuardScope
}

/**
 * Limits for reading a body to find out whether the job is historic. The body of a configure request has about 200
 * bytes.
 */
const MAX_JOB_BYTES = 65_536
const JOB_TIMEOUT_MS = 2000

/** The longest wait that `Prefer: wait` can request. */
const MAX_WAIT_SECONDS = 60

/** A guarded request that the guard is handling. */
type Guarded = {
  readonly exchange: Exchange
  readonly reply: FastifyReply
  /** Continues with the next phase. */
  readonly pass: () => void
}

/**
 * The phase that refuses guarded requests that the circuit does not admit, without reading their bodies.
 *
 * With scope `live`, the body of a request that would be refused is read first: historic jobs are admitted. A client
 * that prefers to wait is queued in the waiting room after its small body was read. In mode `observe` the request is
 * forwarded and its response is marked.
 */
export function guard(app: FastifyInstance, options: GuardOptions): void {
  const { breaker, waitingRoom, scope } = options
  app.addHook('onRequest', (request, reply, done) => {
    const { exchange } = request
    if (exchange?.guarded !== true) return done()
    const decision = breaker.decide()
    if (decision.admitted) return done()
    const guarded: Guarded = { exchange, reply, pass: done }
    // An override applies to every request.
    if (scope() === 'all' || decision.code === 'forced_open') turnAway(guarded, decision, options)
    else passHistoric(guarded, decision, options).catch(error => failAt(reply, error, done))
  })
  app.addHook('preClose', done => {
    waitingRoom.close()
    done()
  })
}

/** Reports an internal error. A response that has started, or that Fastify no longer controls, can only be aborted. */
function failAt(reply: FastifyReply, error: Error, done: (error: Error) => void): void {
  if (reply.sent) reply.raw.destroy(error)
  else done(error)
}

async function passHistoric(guarded: Guarded, decision: Refusal, options: GuardOptions): Promise<void> {
  const { exchange, reply, pass } = guarded
  const limits = { maxBytes: MAX_JOB_BYTES, timeoutMs: JOB_TIMEOUT_MS }
  const { kind, bytes } = await readBody(reply.raw, limits)
  // The client is gone.
  if (kind === 'broken') return
  if (kind === 'whole') {
    exchange.body = bytes
    exchange.needsFiber = !isHistoric(bytes.toString('utf8'))
  }
  // The concurrency limit may have been reached while the body arrived.
  const now = options.breaker.decide(exchange.needsFiber)
  if (now.admitted) return pass()
  // The rest of a refused body is discarded, because the next request follows it.
  if (kind !== 'whole') whenOver(reply.raw, () => exchange.received.resume())
  turnAway(guarded, exchange.needsFiber ? decision : now, options)
}

/** Refuses the request, lets it wait, or only marks it. */
function turnAway(guarded: Guarded, decision: Refusal, options: GuardOptions): void {
  const { exchange, reply } = guarded
  const seconds = waitOf(exchange, options)
  if (!options.breaker.enforces) markOnly(guarded, decision, options)
  else if (seconds === 0) refuse(exchange, reply, decision, options)
  // A client that waits for 100 Continue does not get it before the request is admitted.
  else if (awaitsContinue(exchange.received)) park(guarded, decision, seconds, options)
  else {
    receiveBody(exchange, reply.raw, options, fault => {
      if (fault === 'gone' || exchange.hasEnded) return
      if (fault === undefined) park(guarded, decision, seconds, options)
      else refuse(exchange, reply, decision, options)
    })
  }
}

/** How long the request may wait to be admitted, in seconds: 0 if it does not ask to wait, or cannot wait. */
function waitOf({ received, body }: Exchange, { connections }: GuardOptions): number {
  const { prefer } = received.headers
  if (prefer === undefined || connections.isPipelined(received)) return 0
  // If more of the body is pending than is read ahead, the connection is not read and a disconnect is not noticed.
  if (body === undefined && !hasSmallBody(received)) return 0
  return Math.min(waitSeconds(prefer.toString()) ?? 0, MAX_WAIT_SECONDS)
}

function markOnly({ exchange, pass }: Guarded, decision: Refusal, { breaker }: GuardOptions): void {
  breaker.refusedSoon(decision, exchange)
  exchange.marks.push('focus-breaker', 'would-refuse')
  pass()
}

/** Responds to an exchange with the refusal. */
export function refuse(
  exchange: Exchange,
  reply: FastifyReply,
  decision: Refusal,
  { breaker, refusals, cors }: Pick<GuardOptions, 'breaker' | 'refusals' | 'cors'>,
): void {
  breaker.refusedSoon(decision, exchange)
  const { id, view, received } = exchange
  const own = refusals.response({ id, clientPrefix: view.prefix, accept: received.headers.accept }, decision)
  exchange.statusCode = own.statusCode
  reply.hijack()
  respond(reply.raw, own, cors.headersFor(received.headers.origin))
}

/** Queues the request until it is admitted or its wait ends. Refuses it if the waiting room is full. */
function park(guarded: Guarded, decision: Refusal, seconds: number, options: GuardOptions): void {
  const { exchange, reply, pass } = guarded
  const { breaker, waitingRoom, connections } = options
  const released = (last: Decision) => {
    if (!leaveRoom()) return
    if (!last.admitted) {
      if (breaker.enforces) refuse(exchange, reply, last, options)
      else markOnly(guarded, last, options)
      return
    }
    // Take the slot at once, so that the decision about the next waiting request counts this one.
    const refusal = exchange.admit(breaker)
    if (refusal !== undefined) return refuse(exchange, reply, refusal, options)
    exchange.marks.push('preference-applied', `wait=${seconds}`)
    pass()
  }
  const { received, needsFiber, address } = exchange
  const leave = connections.isPipelined(received)
    ? undefined
    : waitingRoom.enter(needsFiber, seconds * 1000, released, address)
  if (leave === undefined) {
    refuse(exchange, reply, decision, options)
    return
  }
  const leaveRoom = exchange.hold(leave)
  // A client that sends more data does not wait for this response: respond at once, as if its wait had ended.
  connections.whenFollowed(received, () => released(breaker.decide(needsFiber)))
}
