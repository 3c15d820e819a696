import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { Breaker } from '../breaker/breaker.js'
import type { WaitingRoom } from '../breaker/waiting-room.js'
import { inWords, parseSpan } from '../domain/time.js'
import { type Connections, whenOver } from '../server/connection.js'
import { sendError } from '../server/error-response.js'
import { FiberBody } from './schemas.js'

/** Dependencies of the route. */
export type WaitOptions = {
  readonly breaker: Breaker
  /** The waiting room, with policy `at-random`. */
  readonly room: WaitingRoom
  readonly connections: Connections
  /** The address by which waiting clients are counted. */
  readonly addressOf: (request: FastifyRequest) => string
  /** Responds as `GET /-/fiber` does at this moment. */
  readonly answer: (request: FastifyRequest, reply: FastifyReply) => void
}

/**
 * Maximum number of waiting clients. Each costs a connection, a request and a response: 5 to 10 KB. This number fits
 * into the memory limit of the manifests in `deploy/`, as `test/e2e/bounded-cost.test.ts` measures.
 */
export const MAX_WAITING = 5000

/** The default wait: less than nginx's default timeout of one minute. */
const DEFAULT_WAIT_MS = 55_000
const MAX_WAIT_MS = 3_600_000

/**
 * `GET /-/wait?timeout=60s`: waits until a guarded request would be admitted or the timeout expires, then responds like
 * `GET /-/fiber`. Waiting reserves no slot: the next request is decided separately.
 */
export function wait(app: FastifyInstance, options: WaitOptions): void {
  const { breaker, room, connections, addressOf, answer } = options
  app.get(
    '/-/wait',
    {
      schema: {
        summary:
          'Waits until a guarded request would be admitted, or until the timeout expires. Then responds like /-/fiber.',
        parameters: { timeout: { description: 'Maximum wait, at most one hour.', example: '55s' } },
        response: { 200: FiberBody },
      },
    },
    (request, reply) => {
      const timeout = new URLSearchParams(request.url.split('?')[1]).get('timeout')
      const waitMs = timeout === null ? DEFAULT_WAIT_MS : parseSpan(timeout)
      if (waitMs === undefined || waitMs > MAX_WAIT_MS) {
        const expected = `timeout: expected a duration of at most ${inWords(MAX_WAIT_MS)}, like 60s or 10m`
        return sendError(reply, 400, 'Bad Request', `${expected}; given ${timeout?.slice(0, 64)}.`)
      }
      const isAtOnce = waitMs === 0 || connections.isPipelined(request.raw)
      if (isAtOnce || (breaker.decide().admitted && room.size === 0)) return answer(request, reply)
      let isOver = false
      const answerOnce = () => {
        if (isOver) return
        isOver = true
        answer(request, reply)
      }
      const leave = room.enter(true, waitMs, answerOnce, addressOf(request))
      if (leave === undefined) return answerOnce()
      whenOver(reply.raw, () => {
        isOver = true
        leave()
      })
      // The body of a GET is ignored, but a disconnect is noticed only if the body is read.
      request.raw.resume()
      // A client that sends more data does not wait for this response: respond at once, as if its wait had ended.
      connections.whenFollowed(request.raw, () => {
        leave()
        answerOnce()
      })
    },
  )
  app.addHook('preClose', done => {
    room.close()
    done()
  })
}
