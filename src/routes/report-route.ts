import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import Type, { type Static } from 'typebox'
import { outageId } from '../domain/outage-id.js'
import { MAX_DAYS, type PeriodReport, periodReport } from '../domain/period-report.js'
import { type Instant, rfc3339 } from '../domain/time.js'
import { FAILED_READING_KINDS, PHASES, type Phase } from '../domain/vocabulary.js'
import type { KnownRecord } from '../observability/known-record.js'
import { ClientRecord, CountsRecord, clientAsJson, RunRecord } from '../outages/detail-record.js'
import type { OutageLog } from '../outages/log.js'
import { sendError } from '../server/error-response.js'
import { type Cell, csv } from './csv.js'
import { readDocument, sendDocument } from './page-route.js'
import { formatOf, formatParameter } from './response-format.js'
import { COUNTED_BY, countedBy, described, Nullable, Timestamp } from './schemas.js'

/** Dependencies of the route. */
export type ReportOptions = {
  /** Called for each request. */
  readonly known: () => Pick<KnownRecord, 'buckets' | 'outageLog' | 'replicas'>
  readonly clock: () => Instant
  /** The display name of this proxy. */
  readonly name: () => string
  /** Whether counts survive a restart. */
  readonly isKept: () => boolean
}

const Seconds = Type.Number()

const SecondsBy = Type.Object({
  ready: Seconds,
  waiting: Seconds,
  unreachable: Seconds,
  recovering: Seconds,
  starting: Seconds,
  stopped: Seconds,
  maintenance: Seconds,
  'let-through': Seconds,
  'not-running': Seconds,
} satisfies Record<Phase, Type.TSchema>)

const CauseBody = Type.Object({ count: Type.Integer(), seconds: Seconds, longestSeconds: Seconds })

const ReportBody = Type.Object({
  name: Type.String(),
  from: Timestamp,
  to: Timestamp,
  days: Type.Integer(),
  observedSeconds: described('Time during which focus-breaker was running.', Seconds),
  notRunningSeconds: described('Time since `since` during which it was not running.', Seconds),
  availability: Type.Object({
    /**
     * The share of the observed time in which the fiber was ready and requests were admitted; null without observed
     * time.
     */
    ready: Nullable(Type.Number()),
    secondsBy: SecondsBy,
  }),
  outages: Type.Object({
    count: described(
      'Outages that started in the period, plus one already in progress at its start.',
      Type.Integer(),
    ),
    byCause: described(
      'Outages counted by their first cause. `seconds` is the time during which this was the cause.',
      Type.Object({ waiting: CauseBody, unreachable: CauseBody }),
    ),
    longest: described(
      'The longest outage in full length, even if it started before the period.',
      Nullable(
        Type.Object({
          id: Type.String(),
          startedAt: Timestamp,
          endedAt: Nullable(Timestamp),
          seconds: Seconds,
          cause: Type.Enum(FAILED_READING_KINDS),
        }),
      ),
    ),
  }),
  absences: described(
    'Periods in which focus-server could not be reached, whether during an outage or not, including its restarts.',
    Type.Object({ count: Type.Integer(), seconds: Seconds, longestSeconds: Seconds }),
  ),
  attempts: Type.Object({
    refused: Type.Integer(),
    wouldRefuse: Type.Integer(),
    spared: described(
      'Requests refused while focus-server was up and the fiber was missing; focus-server would have rejected them.',
      Type.Integer(),
    ),
    clients: Type.Array(ClientRecord),
    otherClients: CountsRecord,
    runs: Type.Array(RunRecord),
    otherRuns: CountsRecord,
    withoutRun: CountsRecord,
  }),
  saved: described(
    'Estimate of the waiting time that clients were spared; null if no guarded request was measured in the period.',
    Nullable(
      Type.Object({
        seconds: Type.Integer(),
        assumption: Type.String(),
        perAttemptSeconds: Type.Number(),
        basis: Type.Object({
          /** Number of guarded requests measured in the period. */
          measured: Type.Integer(),
          spared: Type.Integer(),
        }),
      }),
    ),
  ),
  buckets: Type.Array(
    Type.Object({
      from: Timestamp,
      to: Timestamp,
      observedSeconds: Seconds,
      notRunningSeconds: Seconds,
      availability: Nullable(Type.Number()),
      secondsBy: SecondsBy,
      refused: Type.Integer(),
      wouldRefuse: Type.Integer(),
      spared: Type.Integer(),
      outages: Type.Integer(),
      longestOutageSeconds: Seconds,
      absences: Type.Integer(),
      absenceSeconds: Seconds,
    }),
  ),
  kept: described('Whether counts survive a restart: true with `history.file`.', Type.Boolean()),
  since: described('Start of the recorded data.', Timestamp),
  ...COUNTED_BY,
})

const FORMATS = ['csv', 'json', 'html'] as const

const TABLES = ['buckets', 'clients', 'runs'] as const

const DEFAULT_DAYS = 30

const ASSUMPTION =
  'Each spared attempt would have kept its client waiting for the median duration of the guarded requests that focus-server answered in this period.'

/** `GET /-/report?days=30`: a report on the last days as JSON, CSV or a printable page. */
export function report(app: FastifyInstance, options: ReportOptions): void {
  const page = readDocument('report.html')
  app.get(
    '/-/report',
    {
      schema: {
        summary: 'A report on the last days. CSV for Accept: text/csv, a printable page for text/html.',
        mediaTypes: ['application/json', 'text/csv', 'text/html'],
        parameters: {
          days: { description: `Number of days, from 1 to ${MAX_DAYS}.`, example: String(DEFAULT_DAYS) },
          table: { description: `The table to return as CSV: ${TABLES.join(', ')}.`, example: 'buckets' },
          ...formatParameter(FORMATS),
        },
        response: { 200: ReportBody },
      },
    },
    (request, reply) => {
      const days = daysOf(request, reply)
      const table = days === undefined ? undefined : tableOf(request, reply)
      const format = table === undefined ? undefined : formatOf(request, reply, FORMATS)
      if (days === undefined || table === undefined || format === undefined) return
      if (format === 'html') {
        sendDocument(request, reply, page)
        return
      }
      const { clock } = options
      const { buckets, outageLog, replicas } = options.known()
      const known = buckets.buckets()
      const now = clock()
      const made = periodReport(days, {
        ...{ now, buckets: known, ...buckets.lasting() },
        underWayAt: at => underWayAt(at, outageLog),
      })
      reply.header('cache-control', 'no-store')
      if (format === 'csv') {
        reply.header('content-type', 'text/csv; charset=utf-8; header=present').send(csv(rowsOf(made, table)))
        return
      }
      const since = Math.min(now, ...known.map(bucket => bucket.since))
      reply.send({ ...bodyOf(made, since, options), ...countedBy(replicas) })
    },
  )
}

/** The parameter `days`. Undefined if it is invalid; a 400 has then been sent. */
function daysOf(request: FastifyRequest, reply: FastifyReply): number | undefined {
  const text = new URLSearchParams(request.url.split('?')[1]).get('days')
  const days = text === null ? DEFAULT_DAYS : /^\d+$/.test(text) ? Number(text) : 0
  if (days >= 1 && days <= MAX_DAYS) return days
  const message = `days: expected a whole number from 1 to ${MAX_DAYS}; given ${text?.slice(0, 64)}.`
  sendError(reply, 400, 'Bad Request', message)
  return undefined
}

function tableOf(request: FastifyRequest, reply: FastifyReply): (typeof TABLES)[number] | undefined {
  const text = new URLSearchParams(request.url.split('?')[1]).get('table') ?? 'buckets'
  const table = TABLES.find(name => name === text)
  if (table === undefined) {
    const message = `table: expected one of ${TABLES.join(', ')}; given ${text.slice(0, 64)}.`
    sendError(reply, 400, 'Bad Request', message)
  }
  return table
}

function underWayAt(at: Instant, outageLog: OutageLog) {
  const outage = outageLog
    .outages()
    .find(({ startedAt, endedAt }) => startedAt < at && (endedAt === null || endedAt > at))
  const absence = outageLog.unreachablePeriods().some(({ from, to }) => from < at && (to === null || to > at))
  const cause = outage?.openedBy.kind === 'unreachable' ? 'unreachable' : 'waiting'
  return { outage: outage === undefined ? null : cause, absence } as const
}

function bodyOf(
  { rows, ...made }: PeriodReport,
  since: Instant,
  { name, isKept }: ReportOptions,
): Static<typeof ReportBody> {
  const { outages, attempts, saved } = made
  const { longest } = outages
  return {
    name: name(),
    ...made,
    from: rfc3339(made.from),
    to: rfc3339(made.to),
    outages: {
      ...outages,
      longest: longest && {
        id: outageId(longest.from),
        startedAt: rfc3339(longest.from),
        endedAt: longest.isUnderWay ? null : rfc3339(longest.from + longest.seconds * 1000),
        ...{ seconds: longest.seconds, cause: longest.cause },
      },
    },
    attempts: { ...attempts, clients: attempts.clients.map(clientAsJson), runs: [...attempts.runs] },
    saved: saved && {
      seconds: saved.seconds,
      assumption: ASSUMPTION,
      perAttemptSeconds: saved.perAttemptSeconds,
      basis: { measured: saved.measured, spared: attempts.spared },
    },
    buckets: rows.map(row => ({ ...row, from: rfc3339(row.from), to: rfc3339(row.to) })),
    kept: isKept(),
    since: rfc3339(since),
  }
}

function rowsOf(
  { rows, attempts }: PeriodReport,
  table: (typeof TABLES)[number],
): readonly (readonly Cell[])[] {
  const { clients, otherClients, runs, otherRuns, withoutRun } = attempts
  switch (table) {
    case 'clients':
      return [
        ['address', 'user_agent', 'refused', 'would_refuse', 'first', 'last'],
        ...clients.map(({ address, userAgent, refused, wouldRefuse, first, last }) => [
          ...[address, userAgent, refused, wouldRefuse, rfc3339(first), rfc3339(last)],
        ]),
        ['others', null, otherClients.refused, otherClients.wouldRefuse, null, null],
      ]
    case 'runs':
      return [
        ['run', 'refused', 'would_refuse'],
        ...runs.map(({ run, refused, wouldRefuse }) => [run, refused, wouldRefuse]),
        ['(others)', otherRuns.refused, otherRuns.wouldRefuse],
        ['(no run)', withoutRun.refused, withoutRun.wouldRefuse],
      ]
    case 'buckets':
      return [
        [
          ...['from', 'to', 'availability', 'observed_seconds'],
          ...PHASES.map(phase => `${phase.replace('-', '_')}_seconds`),
          ...['refused', 'would_refuse', 'spared', 'outages', 'longest_outage_seconds'],
          ...['absences', 'absence_seconds'],
        ],
        ...rows.map(row => [
          ...[rfc3339(row.from), rfc3339(row.to), row.availability, row.observedSeconds],
          ...PHASES.map(phase => row.secondsBy[phase]),
          ...[row.refused, row.wouldRefuse, row.spared, row.outages, row.longestOutageSeconds],
          ...[row.absences, row.absenceSeconds],
        ]),
      ]
  }
}
