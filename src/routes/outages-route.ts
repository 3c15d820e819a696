import type { FastifyInstance } from 'fastify'
import Type, { type Static } from 'typebox'
import type { Breaker } from '../breaker/breaker.js'
import { isDuring, type Outage, type UnreachablePeriod } from '../domain/outage.js'
import { causesOf, NO_DETAIL, type OutageDetail } from '../domain/outage-detail.js'
import { outageId, startOfOutage } from '../domain/outage-id.js'
import { overrideAsJson, type PastOverride, pastOverrideAsJson } from '../domain/override.js'
import { minus, plus, sumOf, topOf } from '../domain/refusal-counts.js'
import { type Instant, rfc3339 } from '../domain/time.js'
import { FAILED_READING_KINDS, OVERRIDE_ENDS } from '../domain/vocabulary.js'
import type { KnownRecord } from '../observability/known-record.js'
import {
  ChangeRecord,
  ClientRecord,
  CountsRecord,
  changeAsJson,
  clientAsJson,
  LetInRecord,
  letInAsJson,
  RunRecord,
} from '../outages/detail-record.js'
import {
  OutageRecord,
  outageAsJson,
  UnreachablePeriodRecord,
  unreachablePeriodAsJson,
} from '../outages/record.js'
import { sendError } from '../server/error-response.js'
import { type Cell, csv } from './csv.js'
import { LIMIT_PARAMETER, limitOf } from './limit-parameter.js'
import { formatOf, formatParameter } from './response-format.js'
import { COUNTED_BY, countedBy, described, Nullable, OverrideBody, Timestamp } from './schemas.js'

/** Dependencies of the routes. */
export type OutagesOptions = {
  /** Called for each request. */
  readonly known: () => OutageHistory
  readonly breaker: Breaker
  readonly clock: () => Instant
}

/** The recorded data that the routes show. */
type OutageHistory = Pick<KnownRecord, 'outageLog' | 'outageDetails' | 'pastOverrides' | 'replicas'>

const OutageBody = Type.Object({
  id: described('The id in `/-/outages/<id>`, derived from the start.', Type.String()),
  ...Type.Required(Type.Omit(OutageRecord, ['replica'])).properties,
  replica: described(
    'The replica that saw the outage start, if there are several.',
    Type.Optional(Type.String()),
  ),
  seconds: described('From the start to the end, or until now.', Type.Number()),
  causes: described(
    'The causes in order. The last one has no end while the outage lasts.',
    Type.Array(
      Type.Object({ cause: Type.Enum(FAILED_READING_KINDS), from: Timestamp, to: Nullable(Timestamp) }),
    ),
  ),
  unreachable: described('The unreachable periods during the outage.', Type.Array(UnreachablePeriodRecord)),
})

const OutagesBody = Type.Object({
  outages: Type.Array(OutageBody),
  unreachable: described(
    'All unreachable periods, whether during an outage or not, including restarts of focus-server.',
    Type.Array(UnreachablePeriodRecord),
  ),
  ...COUNTED_BY,
})

const DetailBody = Type.Object({
  ...OutageBody.properties,
  /**
   * The states that the circuit entered, and the readings that caused them. `state` is null when focus-breaker stopped.
   */
  changes: Type.Array(ChangeRecord),
  omittedChanges: described(
    'Number of changes omitted from the middle, for an outage with very many.',
    Type.Integer(),
  ),
  overrides: described(
    'The overrides during the outage, oldest first. `endedAt` is null for the one in force.',
    Type.Array(
      Type.Object({
        ...OverrideBody.properties,
        endedAt: Nullable(Timestamp),
        end: Nullable(Type.Enum(OVERRIDE_ENDS)),
        endedBy: Nullable(Type.String()),
      }),
    ),
  ),
  minutes: described(
    'Refusals over time, without intervals that have none. `unknown` counts refusals whose time is not known.',
    Type.Object({
      spanMinutes: Type.Integer(),
      counts: Type.Array(Type.Object({ minute: Timestamp, ...CountsRecord.properties })),
      unknown: CountsRecord,
    }),
  ),
  clients: described(
    'The clients with the most refusals. Together with `otherClients` they add up to `refused` and `wouldRefuse`.',
    Type.Array(ClientRecord),
  ),
  otherClients: CountsRecord,
  runs: described(
    'The same by test run: the listed ones, `otherRuns`, and requests `withoutRun`.',
    Type.Array(RunRecord),
  ),
  otherRuns: CountsRecord,
  withoutRun: CountsRecord,
  letIn: described(
    'The first guarded requests that were admitted while the circuit was half-open, and their total number.',
    Type.Array(LetInRecord),
  ),
  letInTotal: Type.Integer(),
  ...COUNTED_BY,
})

/** The outage history as JSON or CSV: `GET /-/outages?limit=100`, newest first, and `GET /-/outages/<id>`. */
export function outages(app: FastifyInstance, options: OutagesOptions): void {
  const { clock } = options
  app.get(
    '/-/outages',
    {
      schema: {
        summary: 'The outage history, newest first. CSV for Accept: text/csv.',
        mediaTypes: ['application/json', 'text/csv'],
        parameters: { ...LIMIT_PARAMETER, ...formatParameter(FORMATS) },
        response: { 200: OutagesBody },
      },
    },
    (request, reply) => {
      const limit = limitOf(request, reply)
      if (limit === undefined) return
      const format = formatOf(request, reply, FORMATS)
      if (format === undefined) return
      const known = options.known()
      const { outageLog, replicas } = known
      const listed = outageLog.outages().slice(0, limit)
      const periods = outageLog.unreachablePeriods()
      const now = clock()
      reply.header('cache-control', 'no-store')
      if (format === 'csv') {
        reply.header('content-type', CSV_TYPE)
        reply.send(csv(rowsOf(listed, periods, replicas !== undefined, now)))
        return
      }
      reply.send({
        outages: listed.map(outage => asJson(outage, periods, known, now)),
        unreachable: periods.slice(0, limit).map(unreachablePeriodAsJson),
        ...countedBy(replicas),
      })
    },
  )
  app.get<{ Params: { id: string } }>(
    '/-/outages/:id',
    {
      schema: {
        summary: 'The details of one outage. CSV for Accept: text/csv.',
        mediaTypes: ['application/json', 'text/csv'],
        parameters: formatParameter(FORMATS),
        response: { 200: DetailBody },
      },
    },
    (request, reply) => {
      const format = formatOf(request, reply, FORMATS)
      if (format === undefined) return
      const known = options.known()
      const start = startOfOutage(request.params.id)
      const outage =
        start === undefined
          ? undefined
          : known.outageLog.outages().find(({ startedAt }) => Math.floor(startedAt) === start)
      if (outage === undefined) {
        return sendError(
          reply,
          404,
          'Not Found',
          'Unknown outage. An id looks like 20260131T083000000Z; /-/outages lists the known ones.',
        )
      }
      const body = detailBodyOf(outage, known, options)
      reply.header('cache-control', 'no-store')
      if (format === 'csv') reply.header('content-type', CSV_TYPE).send(csv(detailRows(body)))
      else reply.send(body)
    },
  )
}

const FORMATS = ['csv', 'json'] as const

const CSV_TYPE = 'text/csv; charset=utf-8; header=present'

const COLUMNS = [
  ...['started_at', 'ended_at', 'seconds', 'cause', 'opened_by', 'closed_by'],
  ...['refused', 'operations', 'restarts', 'unreachable_spells', 'id', 'would_refuse', 'spared'],
]

const DETAIL_COLUMNS = [
  ...['what', 'from', 'to', 'state', 'cause', 'source', 'address', 'user_agent', 'run', 'operation'],
  ...['refused', 'would_refuse', 'text', 'operations', 'spared', 'let_in', 'silent', 'end', 'ended_by'],
]

/** One row per outage. With replicas, the last column names the one that saw the outage start. */
function rowsOf(
  listed: readonly Outage[],
  periods: readonly UnreachablePeriod[],
  hasReplicas: boolean,
  now: Instant,
): readonly (readonly Cell[])[] {
  const rows = [COLUMNS, ...listed.map(outage => rowOf(outage, periods, now))]
  if (!hasReplicas) return rows
  return rows.map((row, index) => [...row, index === 0 ? 'replica' : (listed[index - 1]?.replica ?? null)])
}

function rowOf(outage: Outage, periods: readonly UnreachablePeriod[], now: Instant): readonly Cell[] {
  const { startedAt, endedAt, cause, openedBy, closedBy, refused, operations, restarts } =
    outageAsJson(outage)
  return [
    ...[startedAt, endedAt, secondsOf(outage, now), cause, openedBy.source, closedBy?.source ?? null],
    ...[refused, operations, restarts, periods.filter(period => isDuring(period, outage)).length],
    ...[outageId(outage.startedAt), outage.wouldRefuse, outage.spared],
  ]
}

function asJson(
  outage: Outage,
  periods: readonly UnreachablePeriod[],
  { outageDetails, replicas }: OutageHistory,
  now: Instant,
): Static<typeof OutageBody> {
  const { wouldRefuse, spared, causeSince } = outage
  const { replica, ...record } = outageAsJson(outage)
  return {
    id: outageId(outage.startedAt),
    ...record,
    // With a single replica, the history does not name it.
    ...(replicas !== undefined && replicas.length > 1 && replica !== undefined && { replica }),
    ...{ wouldRefuse, spared, causeSince: rfc3339(causeSince) },
    seconds: secondsOf(outage, now),
    causes: causesOf(outage, outageDetails.of(outage)?.changes).map(({ cause, from, to }) => ({
      ...{ cause, from: rfc3339(from), to: to === null ? null : rfc3339(to) },
    })),
    unreachable: periods.filter(period => isDuring(period, outage)).map(unreachablePeriodAsJson),
  }
}

/** Refusals without details, for example of an outage recorded by an older version, are counted as others. */
function detailBodyOf(
  outage: Outage,
  known: OutageHistory,
  { breaker, clock }: OutagesOptions,
): Static<typeof DetailBody> {
  const { outageLog, outageDetails, pastOverrides, replicas } = known
  const now = clock()
  const detail: OutageDetail = outageDetails.of(outage) ?? NO_DETAIL
  const { minutes, letIn, letInTotal, omittedChanges } = detail
  const [clients, runs] = [topOf(detail.clients), topOf(detail.runs)]
  const { override } = breaker.snapshot(now)
  const end = outage.endedAt ?? Number.POSITIVE_INFINITY
  const past = pastOverrides
    .filter(({ since, endedAt }: PastOverride) => since < end && endedAt > outage.startedAt)
    .toReversed()
    .map(each => pastOverrideAsJson(each))
  const current =
    override === null || override.since >= end
      ? []
      : [{ ...overrideAsJson(override), endedAt: null, end: null, endedBy: null }]
  return {
    ...asJson(outage, outageLog.unreachablePeriods(), known, now),
    changes: detail.changes.map(changeAsJson),
    omittedChanges,
    overrides: [...past, ...current],
    minutes: {
      spanMinutes: minutes.spanMinutes,
      counts: minutes.counts.map(({ minute, refused, wouldRefuse }) => ({
        ...{ minute: rfc3339(minute * MINUTE_MS), refused, wouldRefuse },
      })),
      unknown: minus(outage, sumOf(minutes.counts)),
    },
    clients: clients.items.map(clientAsJson),
    otherClients: minus(outage, sumOf(clients.items)),
    runs: [...runs.items],
    otherRuns: runs.others,
    withoutRun: minus(outage, plus(sumOf(runs.items), runs.others)),
    letIn: letIn.map(letInAsJson),
    letInTotal,
    ...countedBy(replicas),
  }
}

const MINUTE_MS = 60_000

/** One row per fact: its kind, its time, and the columns that apply. */
function detailRows(body: Static<typeof DetailBody>): readonly (readonly Cell[])[] {
  const row = (what: string, cells: Readonly<Record<string, Cell | undefined>>) =>
    DETAIL_COLUMNS.map(column => (column === 'what' ? what : (cells[column] ?? null)))
  const counts = ({ refused, wouldRefuse }: Static<typeof CountsRecord>) => ({
    ...{ refused, would_refuse: wouldRefuse },
  })
  const spanMs = body.minutes.spanMinutes * MINUTE_MS
  return [
    DETAIL_COLUMNS,
    row('outage', {
      from: body.startedAt,
      to: body.endedAt,
      cause: body.cause,
      ...counts(body),
      ...{ text: body.id, operations: body.operations, spared: body.spared, let_in: body.letInTotal },
    }),
    ...body.causes.map(span => row('cause', { ...span })),
    ...body.changes.map(({ at, state, cause, reading }) =>
      row('change', {
        ...{ from: at, state: state ?? 'not-running', cause, source: reading?.source },
        text: reading?.problem ?? reading?.missing?.join(' '),
      }),
    ),
    ...(body.omittedChanges === 0 ? [] : [row('omitted changes', { text: String(body.omittedChanges) })]),
    ...body.unreachable.map(({ from, to, problem }) => row('unreachable', { from, to, text: problem })),
    ...body.overrides.map(({ since, endedAt, state, by, reason, silent, end, endedBy }) =>
      row('override', {
        ...{ from: since, to: endedAt, state, address: by, text: reason },
        ...{ silent: String(silent), end, ended_by: endedBy },
      }),
    ),
    ...body.minutes.counts.map(each =>
      row('minutes', {
        ...{ from: each.minute, to: rfc3339(Date.parse(each.minute) + spanMs), ...counts(each) },
      }),
    ),
    row('minutes unknown', counts(body.minutes.unknown)),
    ...body.clients.map(client =>
      row('client', {
        ...{ from: client.first, to: client.last, address: client.address, user_agent: client.userAgent },
        ...counts(client),
      }),
    ),
    row('other clients', counts(body.otherClients)),
    ...body.runs.map(each => row('run', { run: each.run, ...counts(each) })),
    row('other runs', counts(body.otherRuns)),
    row('without run', counts(body.withoutRun)),
    ...body.letIn.map(({ at, address, userAgent, run, operation }) =>
      row('let in', { from: at, address, user_agent: userAgent, run, operation }),
    ),
  ]
}

function secondsOf({ startedAt, endedAt }: Outage, now: Instant): number {
  // Whole milliseconds, as in the displayed times. The clock of an earlier process may have been ahead of ours.
  return Math.max(0, Math.floor(endedAt ?? now) - Math.floor(startedAt)) / 1000
}
