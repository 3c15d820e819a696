import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { Breaker } from '../breaker/breaker.js'
import type { WaitingRoom } from '../breaker/waiting-room.js'
import { inWords, parseSpan } from '../domain/time.js'
import { type Connections, whenOver } from '../server/connection.js'
import { sendError } from '../server/error-response.js'
import { FiberBody } from './schemas.js'

/** What waiting for the fiber needs. */
export type WaitOptions = {
  readonly breaker: Breaker
  /** The clients that wait, of policy `at-random`. */
  readonly room: WaitingRoom
  readonly connections: Connections
  /** The address that places are counted by. */
  readonly addressOf: (request: FastifyRequest) => string
  /** Answers as `GET /-/fiber` does at this moment. */
  readonly answer: (request: FastifyRequest, reply: FastifyReply) => void
}

/**
 * How many may wait. Each costs a connection, its request and its response: 5 to 10 KB. So many fit into the memory that the
 * manifests in `deploy/` grant, which `test/e2e/bounded-cost.test.ts` measures.
 */
export const MAX_WAITING = 5000

/** The wait where none is given: less than the minute after which nginx gives up by default. */
const DEFAULT_WAIT_MS = 55_000
const MAX_WAIT_MS = 3_600_000

/**
 * `GET /-/wait?timeout=60s`: held until a guarded request would be admitted, or until the time is over; then
 * answered as `GET /-/fiber`. Having waited gives no right to a place: the next request is decided by itself.
 */
export function wait(app: FastifyInstance, options: WaitOptions): void {
  const { breaker, room, connections, addressOf, answer } = options
  app.get(
    '/-/wait',
    {
      schema: {
        summary: 'Held until it would be admitted, or until the time is over.',
        parameters: { timeout: { description: 'How long, at most an hour.', example: '55s' } },
        response: { 200: FiberBody },
      },
    },
    (request, reply) => {
      const timeout = new URLSearchParams(request.url.split('?')[1]).get('timeout')
      const waitMs = timeout === null ? DEFAULT_WAIT_MS : parseSpan(timeout)
      if (waitMs === undefined || waitMs > MAX_WAIT_MS) {
        const expected = `timeout: expected a span of at most ${inWords(MAX_WAIT_MS)}, like 60s or 10m`
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
      // A body of a GET means nothing, but without reading it a client that leaves is not noticed.
      request.raw.resume()
      // A client that sends more does not wait for this response: it gets it at once, as if its time were over.
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
