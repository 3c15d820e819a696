import type { FastifyInstance } from 'fastify'
import Type from 'typebox'
import { rfc3339 } from '../domain/time.js'
import type { RecentHours } from '../observability/recent-hours.js'
import { Cause, Nullable, State, Timestamp } from './schemas.js'

const HistoryBody = Type.Object({
  /** The start of the process, or six hours ago. */
  from: Timestamp,
  to: Timestamp,
  /** The state at `from`, and each later one; it lasts until the next. `cause` is null when closed. */
  states: Type.Array(Type.Object({ from: Timestamp, state: State, cause: Nullable(Cause) })),
  /** The minutes in which guarded requests were refused, oldest first. */
  refused: Type.Array(Type.Object({ minute: Timestamp, count: Type.Integer() })),
})

/** `GET /-/history`: the states and the refusals per minute of the last hours, which the status page draws. */
export function history(app: FastifyInstance, recentHours: RecentHours): void {
  app.get(
    '/-/history',
    {
      schema: {
        summary: 'States and refusals per minute of the last hours.',
        response: { 200: HistoryBody },
      },
    },
    (_request, reply) => {
      const { from, to, states, refused } = recentHours.past()
      reply.header('cache-control', 'no-store').send({
        from: rfc3339(from),
        to: rfc3339(to),
        states: states.map(each => ({ ...each, from: rfc3339(each.from) })),
        refused: refused.map(({ minute, count }) => ({ minute: rfc3339(minute), count })),
      })
    },
  )
}
