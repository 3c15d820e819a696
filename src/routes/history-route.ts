import type { FastifyInstance } from 'fastify'
import Type from 'typebox'
import { rfc3339 } from '../domain/time.js'
import { phaseOf } from '../domain/timeline.js'
import { OVERRIDE_STATES, PHASES } from '../domain/vocabulary.js'
import type { KnownRecord } from '../observability/known-record.js'
import {
  Cause,
  COUNTED_BY,
  COUNTED_SPAN,
  countedBy,
  described,
  Nullable,
  State,
  Timestamp,
} from './schemas.js'

const HistoryBody = Type.Object({
  ...COUNTED_SPAN,
  ...COUNTED_BY,
  from: described('The start of the record (`since`), but at most six hours ago.', Timestamp),
  to: Timestamp,
  /**
   * The state at `from`, and each later change. Each lasts until the next one. `state` is null while focus-breaker was
   * not running, `cause` while the circuit was closed. `phase` combines them in one word.
   */
  states: Type.Array(
    Type.Object({
      from: Timestamp,
      state: Nullable(State),
      cause: Nullable(Cause),
      override: Nullable(Type.Object({ state: Type.Enum(OVERRIDE_STATES), silent: Type.Boolean() })),
      phase: Type.Enum(PHASES),
    }),
  ),
  /**
   * The minutes in which guarded requests were refused (`count`), or would have been refused without mode `observe`
   * (`wouldRefuse`), oldest first.
   */
  refused: Type.Array(Type.Object({ minute: Timestamp, count: Type.Integer(), wouldRefuse: Type.Integer() })),
})

/** `GET /-/history`: states and refusals per minute of the last hours, for the chart on the status page. */
export function history(
  app: FastifyInstance,
  known: () => Pick<KnownRecord, 'recentHours' | 'span' | 'replicas'>,
): void {
  app.get(
    '/-/history',
    {
      schema: {
        summary: 'States and refusals per minute of the last hours.',
        response: { 200: HistoryBody },
      },
    },
    (_request, reply) => {
      const { recentHours, span, replicas } = known()
      const { from, to, states, refused } = recentHours.past()
      reply.header('cache-control', 'no-store').send({
        ...span,
        ...countedBy(replicas),
        from: rfc3339(from),
        to: rfc3339(to),
        states: states.map(each => ({ ...each, from: rfc3339(each.from), phase: phaseOf(each) })),
        refused: refused.map(each => ({
          minute: rfc3339(each.minute),
          count: each.refused,
          wouldRefuse: each.wouldRefuse,
        })),
      })
    },
  )
}
