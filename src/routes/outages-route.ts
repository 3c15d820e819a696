import type { FastifyInstance } from 'fastify'
import Type from 'typebox'
import { isDuring, type Outage, type UnreachablePeriod } from '../domain/outage.js'
import type { Instant } from '../domain/time.js'
import type { OutageLog } from '../outages/log.js'
import {
  OutageRecord,
  outageAsJson,
  UnreachablePeriodRecord,
  unreachablePeriodAsJson,
} from '../outages/record.js'
import { LIMIT_PARAMETER, limitOf } from './limit-parameter.js'

/** What the route needs. */
export type OutagesOptions = { readonly outageLog: OutageLog; readonly clock: () => Instant }

const OutageBody = Type.Object({
  ...OutageRecord.properties,
  /** From the start to the end, or until now. */
  seconds: Type.Number(),
  /** The unreachable periods during the outage. */
  unreachable: Type.Array(UnreachablePeriodRecord),
})
const OutagesBody = Type.Object({
  outages: Type.Array(OutageBody),
  /** All unreachable periods, during an outage or not: restarts of focus-server too. */
  unreachable: Type.Array(UnreachablePeriodRecord),
})

/** `GET /-/outages?limit=100`: the ledger, newest first, as JSON, or as CSV for `Accept: text/csv`. */
export function outages(app: FastifyInstance, { outageLog, clock }: OutagesOptions): void {
  app.get(
    '/-/outages',
    {
      schema: {
        summary: 'The ledger of outages, newest first; CSV for Accept: text/csv.',
        mediaTypes: ['application/json', 'text/csv'],
        parameters: LIMIT_PARAMETER,
        response: { 200: OutagesBody },
      },
    },
    (request, reply) => {
      const limit = limitOf(request, reply)
      if (limit === undefined) return
      const listed = outageLog.outages().slice(0, limit)
      const periods = outageLog.unreachablePeriods()
      reply.header('cache-control', 'no-store').header('vary', 'accept')
      if (request.headers.accept?.includes('text/csv') === true) {
        const rows = [COLUMNS, ...listed.map(outage => rowOf(outage, periods, clock()))]
        reply.header('content-type', 'text/csv; charset=utf-8; header=present')
        reply.send(Buffer.from(rows.map(row => `${row.join(',')}\r\n`).join('')))
        return
      }
      reply.send({
        outages: listed.map(outage => ({
          ...outageAsJson(outage),
          seconds: secondsOf(outage, clock()),
          unreachable: periods.filter(period => isDuring(period, outage)).map(unreachablePeriodAsJson),
        })),
        unreachable: periods.slice(0, limit).map(unreachablePeriodAsJson),
      })
    },
  )
}

const COLUMNS = [
  ...['started_at', 'ended_at', 'seconds', 'cause', 'opened_by', 'closed_by'],
  ...['refused', 'operations', 'restarts', 'unreachable_spells'],
]

/** No cell needs quotes (RFC 4180): all are times, numbers or words of the vocabulary. */
function rowOf(
  outage: Outage,
  periods: readonly UnreachablePeriod[],
  now: Instant,
): readonly (string | number)[] {
  const { startedAt, endedAt, cause, openedBy, closedBy, refused, operations, restarts } =
    outageAsJson(outage)
  return [
    ...[startedAt, endedAt ?? '', secondsOf(outage, now), cause, openedBy.source, closedBy?.source ?? ''],
    ...[refused, operations, restarts, periods.filter(period => isDuring(period, outage)).length],
  ]
}

function secondsOf({ startedAt, endedAt }: Outage, now: Instant): number {
  // Whole milliseconds, as in the shown times. The clock of an earlier process may have been ahead of ours.
  return Math.max(0, Math.floor(endedAt ?? now) - Math.floor(startedAt)) / 1000
}
