import type { FastifyInstance } from 'fastify'
import Type from 'typebox'
import { isDuring, type Outage, type Spell } from '../domain/outage.js'
import type { Instant } from '../domain/time.js'
import { OutageRecord, outageAsJson, SpellRecord, spellAsJson } from '../outages/file.js'
import type { Ledger } from '../outages/log.js'
import { LIMIT_PARAMETER, limitOf } from './limit.js'

/** What the route of the outages needs. */
export type OutagesOptions = { readonly ledger: Ledger; readonly clock: () => Instant }

const OutageBody = Type.Object({
  ...OutageRecord.properties,
  /** From the start to the end, or until now. */
  seconds: Type.Number(),
  /** When the metadata could not be read meanwhile. */
  unreachable: Type.Array(SpellRecord),
})
const OutagesBody = Type.Object({
  outages: Type.Array(OutageBody),
  /** All times when the metadata could not be read, during an outage or not: restarts of focus-server too. */
  unreachable: Type.Array(SpellRecord),
})

/** `GET /-/outages?limit=100`: the ledger, newest first, as JSON, or as CSV for `Accept: text/csv`. */
export function outages(app: FastifyInstance, { ledger, clock }: OutagesOptions): void {
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
      const listed = ledger.outages().slice(0, limit)
      const spells = ledger.spells()
      reply.header('cache-control', 'no-store').header('vary', 'accept')
      if (request.headers.accept?.includes('text/csv') === true) {
        const rows = [COLUMNS, ...listed.map(outage => rowOf(outage, spells, clock()))]
        reply.header('content-type', 'text/csv; charset=utf-8; header=present')
        reply.send(Buffer.from(rows.map(row => `${row.join(',')}\r\n`).join('')))
        return
      }
      reply.send({
        outages: listed.map(outage => ({
          ...outageAsJson(outage),
          seconds: secondsOf(outage, clock()),
          unreachable: spells.filter(spell => isDuring(spell, outage)).map(spellAsJson),
        })),
        unreachable: spells.slice(0, limit).map(spellAsJson),
      })
    },
  )
}

const COLUMNS = [
  ...['started_at', 'ended_at', 'seconds', 'cause', 'opened_by', 'closed_by'],
  ...['refused', 'operations', 'restarts', 'unreachable_spells'],
]

/** Nothing in it needs a quote (RFC 4180): times, numbers and our own words. */
function rowOf(outage: Outage, spells: readonly Spell[], now: Instant): readonly (string | number)[] {
  const { startedAt, endedAt, cause, openedBy, closedBy, refused, operations, restarts } =
    outageAsJson(outage)
  return [
    ...[startedAt, endedAt ?? '', secondsOf(outage, now), cause, openedBy.source, closedBy?.source ?? ''],
    ...[refused, operations, restarts, spells.filter(spell => isDuring(spell, outage)).length],
  ]
}

function secondsOf({ startedAt, endedAt }: Outage, now: Instant): number {
  // As the times are shown. The clock of an earlier process may have gone before ours.
  return Math.max(0, Math.floor(endedAt ?? now) - Math.floor(startedAt)) / 1000
}
