import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { Breaker } from '../breaker/breaker.js'
import type { Refusal } from '../breaker/events.js'
import type { WaitingRoom } from '../breaker/waiting-room.js'
import { isHistoric } from '../domain/configure-request.js'
import { waitSeconds } from '../domain/prefer.js'
import type { Routing, UpstreamTarget } from './classify.js'
import { clientOf } from './client.js'
import { type RefusalOptions, refuse } from './refusal.js'
import { readBody } from './request-body.js'

/** What the guard needs. */
export type GuardOptions = {
  readonly routing: Routing
  readonly breaker: Breaker
  readonly waitingRoom: WaitingRoom
  readonly refusal: RefusalOptions
  /** Read anew at each refusal. */
  readonly scope: () => 'all' | 'live'
}

/** A configure has 200 bytes; what is larger or later than this is not read to find out what it is. */
const MAX_JOB_BYTES = 65_536
const JOB_TIMEOUT_MS = 2000

/** The longest wait that `Prefer: wait` can ask for. */
const MAX_WAIT_SECONDS = 60

/** What Node reads ahead of a body that nobody reads: https://nodejs.org/api/stream.html#buffering. */
const MAX_HELD_BYTES = 16_384

type Done = (error?: Error) => void

/**
 * Refuses guarded requests that the circuit does not admit, before anything of them is read.
 *
 * Only with scope `live` the body is read, and only of a request that would be refused: historic jobs pass.
 * A client that prefers to wait is held, unread. In mode `observe` the answer is marked and the request
 * passes.
 */
export function guard(app: FastifyInstance, options: GuardOptions): void {
  const { routing, breaker, waitingRoom, scope } = options
  app.addHook('onRequest', (request, reply, done) => {
    const target = routing.targetOf(request.raw)
    if (target?.guarded !== true) return done()
    const decision = breaker.decide()
    if (decision.admitted) return done()
    // An operator's word is about everything.
    if (scope() === 'all' || decision.code === 'forced_open')
      turnAway(request, reply, decision, target, options, done)
    else passHistoric(request, reply, decision, target, options, done).catch(done)
  })
  app.addHook('preClose', done => {
    waitingRoom.close()
    done()
  })
}

async function passHistoric(
  request: FastifyRequest,
  reply: FastifyReply,
  decision: Refusal,
  target: UpstreamTarget,
  options: GuardOptions,
  done: Done,
): Promise<void> {
  const { raw } = request
  const { kind, bytes } = await readBody(reply, MAX_JOB_BYTES, JOB_TIMEOUT_MS)
  // Whoever broke off has nobody to answer to.
  if (kind === 'broken') return
  const isWhole = kind === 'whole'
  const needsFiber = !(isWhole && isHistoric(bytes.toString('utf8')))
  const known = isWhole ? { ...target, needsFiber, body: bytes } : target
  options.routing.retarget(raw, known)
  // The site's limit may have been reached while the body came.
  const now = options.breaker.decide(needsFiber)
  if (now.admitted) return done()
  // What is still to come of a refused body is of no use to anybody, but the next request comes behind it.
  if (!isWhole) reply.raw.once('finish', () => raw.resume())
  turnAway(request, reply, needsFiber ? decision : now, known, options, done)
}

/** Refuses, or lets wait, or only marks. */
function turnAway(
  request: FastifyRequest,
  reply: FastifyReply,
  decision: Refusal,
  target: UpstreamTarget,
  options: GuardOptions,
  done: Done,
): void {
  const { breaker, waitingRoom, refusal } = options
  const client = clientOf(request)
  const mark = (reason: Refusal) => {
    breaker.refused(reason, client)
    reply.header('focus-breaker', 'would-refuse')
    done()
  }
  if (!breaker.enforces) {
    mark(decision)
    return
  }
  const sayNo = (reason: Refusal) => {
    breaker.refused(reason, client)
    refuse(request, reply, reason, target.clientPrefix, refusal)
  }
  // Of a body that is not read ahead as a whole nobody notices that its sender has left.
  const { 'content-length': length, 'transfer-encoding': encoding } = request.headers
  const isHeldWhole =
    target.body !== undefined || (encoding === undefined && Number(length ?? 0) <= MAX_HELD_BYTES)
  // Behind an unanswered request of its connection nobody would tell either.
  const asked =
    isHeldWhole && reply.raw.socket !== null ? waitSeconds(request.headers.prefer?.toString()) : undefined
  const seconds = Math.min(asked ?? 0, MAX_WAIT_SECONDS)
  const leave =
    seconds === 0
      ? undefined
      : waitingRoom.enter(target.needsFiber, seconds * 1000, last => {
          if (last.admitted) {
            reply.header('preference-applied', `wait=${seconds}`)
            done()
          } else if (breaker.enforces) sayNo(last)
          else mark(last)
        })
  if (leave === undefined) sayNo(decision)
  else reply.raw.once('close', leave)
}
