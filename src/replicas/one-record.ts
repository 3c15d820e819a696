import type { Static } from 'typebox'
import { Compile } from 'typebox/compile'
import type { Breaker } from '../breaker/breaker.js'
import type { PastOutage } from '../domain/outage.js'
import type { PastOverride } from '../domain/override.js'
import type { Instant } from '../domain/time.js'
import { FAILED_READING_KINDS, type Phase } from '../domain/vocabulary.js'
import { ClientLog } from '../observability/client-log.js'
import type { KnownRecord } from '../observability/known-record.js'
import { RecentHours } from '../observability/recent-hours.js'
import { Runs } from '../observability/runs.js'
import { Totals } from '../observability/totals.js'
import type { Buckets } from '../outages/buckets.js'
import { IN_MEMORY, type Store } from '../outages/keeper.js'
import { type CountedSpan, Lifetime } from '../outages/lifetime.js'
import { OutageLog } from '../outages/log.js'
import { OverrideLog } from '../outages/override-log.js'
import { mergedBuckets } from './merged-buckets.js'
import {
  mergedClients,
  mergedLifetimes,
  mergedMinutes,
  mergedOverrides,
  mergedRuns,
  mergedStates,
  mergedTotals,
} from './merged-counts.js'
import { mergedHistory } from './merged-history.js'
import type { RecordExchange } from './record-exchange.js'
import { type RecordSet, SHARED_RECORDS, type SharedKind, type SharedRecord } from './record-set.js'

/** The options of the merged record of all replicas. */
export type OneRecordOptions = {
  /** The sets to merge, including that of this process. */
  readonly sets: readonly RecordSet[]
  readonly breaker: Breaker
  /** The current phase. */
  readonly phase: () => Phase
  readonly clock: () => Instant
  /** Whether the counts of this process survive a restart. */
  readonly isKeeping: () => boolean
}

/**
 * The merged records of all replicas at one moment: keepers that have resumed from the merged records, and do not listen to
 * the breaker. Each keeper is created when it is first used.
 */
export class OneRecord implements KnownRecord {
  readonly #options: OneRecordOptions
  readonly #sets: readonly RecordSet[]
  readonly #now: Instant
  readonly #history = once(() => mergedHistory(this.#sets, this.#now))
  readonly #outageLog = once(() => {
    const { outages, periods } = this.#history()
    return new OutageLog(resumed({ outage: outages, unreachable: periods }))
  })
  readonly #buckets = once(() => mergedBuckets(this.#sets, this.#history(), this.#now))
  readonly #clientLog = once(() => {
    return new ClientLog(this.#options.clock, () => undefined, resumed({ client: mergedClients(this.#sets) }))
  })
  readonly #runs = once(() => new Runs(this.#options.clock, resumed({ run: mergedRuns(this.#sets) })))
  readonly #totals = once(() => new Totals(resumed({ totals: mergedTotals(this.#sets) })))
  readonly #lifetime = once(() => {
    return new Lifetime(this.#now, resumed({ alive: mergedLifetimes(this.#sets) }, this.#options.isKeeping()))
  })
  readonly #recentHours = once(() => {
    const { breaker, clock } = this.#options
    const states = mergedStates(this.#sets)
    const store = resumed({ state: states, minute: mergedMinutes(this.#sets) })
    return new RecentHours(breaker, clock, {
      store,
      lifetime: { since: this.#lifetime().since, earlierEnd: undefined },
    })
  })
  readonly #overrideLog = once(() => new OverrideLog(resumed({ override: mergedOverrides(this.#sets) })))

  constructor(options: OneRecordOptions) {
    this.#options = options
    this.#now = options.clock()
    // Use the same order everywhere, so that all replicas show the same result.
    this.#sets = options.sets.toSorted((one, other) => (one.id < other.id ? -1 : 1))
  }

  get outageLog(): OutageLog {
    return this.#outageLog()
  }

  get outageDetails(): KnownRecord['outageDetails'] {
    return { of: outage => this.#history().detail(this.outageLog.keyOf(outage)) }
  }

  get buckets(): KnownRecord['buckets'] {
    return {
      buckets: () => [...this.#buckets().days, ...this.#buckets().hours],
      lasting: () => this.#lasting(),
    }
  }

  get clientLog(): ClientLog {
    return this.#clientLog()
  }

  get runs(): Runs {
    return this.#runs()
  }

  get totals(): Totals {
    return this.#totals()
  }

  get recentHours(): RecentHours {
    return this.#recentHours()
  }

  get pastOverrides(): readonly PastOverride[] {
    return this.#overrideLog().past
  }

  get span(): CountedSpan {
    return this.#lifetime().span
  }

  /** The names of the replicas that contributed, whether or not they are still running. */
  get replicas(): readonly string[] {
    return [...new Set(this.#sets.map(({ replica }) => replica))].sort()
  }

  /** What is in progress, in the form that `Buckets` returns. */
  #lasting(): ReturnType<Buckets['lasting']> {
    const phase = this.#options.phase()
    const now = this.#options.clock()
    const spanSince = (from: Instant) => ({ from, ms: Math.max(0, Math.floor(now) - Math.floor(from)) })
    const outage = this.outageLog.current()
    const cause = FAILED_READING_KINDS.find(kind => kind === phase)
    const [period] = this.outageLog.unreachablePeriods()
    return {
      outage:
        outage === undefined
          ? null
          : {
              ...spanSince(outage.startedAt),
              cause: outage.openedBy.kind === 'unreachable' ? 'unreachable' : 'waiting',
            },
      cause:
        cause === undefined ? null : { ...spanSince(this.#buckets().phaseSince(phase) ?? this.#now), cause },
      absence: period?.to === null ? spanSince(period.from) : null,
    }
  }
}

/** How long a merged record is cached. */
const CACHED_MS = 1000

/**
 * What is currently known: this process's own record while it is the only replica, else the merged record of all replicas,
 * which is at most a second old.
 *
 * @param own the record of this process.
 */
export function recordOfAll(
  own: KnownRecord,
  exchange: Pick<RecordExchange, 'sets' | 'update'>,
  options: Omit<OneRecordOptions, 'sets'>,
): () => KnownRecord {
  let made: { readonly at: number; readonly record: KnownRecord } | undefined
  return () => {
    const at = performance.now()
    if (made !== undefined && at - made.at < CACHED_MS) return made.record
    exchange.update()
    const { sets } = exchange
    made = { at, record: sets.length > 1 ? new OneRecord({ ...options, sets }) : own }
    return made.record
  }
}

/** The outages of these sets with a recorded end, oldest first. Forecasts are based on them. */
export function pastOutages(sets: readonly RecordSet[], now: Instant): readonly PastOutage[] {
  return [...mergedHistory(sets, now).outages.values()].flatMap(({ startedAt, endedAt, closedBy, cause }) =>
    endedAt === null || closedBy === null
      ? []
      : [{ cause, lengthMs: Date.parse(endedAt) - Date.parse(startedAt) }],
  )
}

/** A value that is computed when it is first used. */
function once<Value>(make: () => Value): () => Value {
  let made: { readonly value: Value } | undefined
  return () => {
    made ??= { value: make() }
    return made.value
  }
}

/** The compiled checks of the kinds of records, because compiling a check takes long. */
const CHECKS: ReadonlyMap<unknown, { readonly Check: (value: unknown) => boolean }> = new Map(
  Object.values(SHARED_RECORDS).map(schema => [schema, Compile(schema)] as const),
)

/** The records that have passed a check, with its schema: most records are unchanged since a second ago. */
const CHECKED = new WeakMap<object, unknown>()

/** A store that passes these records to the keepers that join, and keeps nothing. */
function resumed(
  kinds: Partial<{ readonly [Kind in SharedKind]: ReadonlyMap<string, SharedRecord<Kind>> }>,
  isKeeping = false,
): Store {
  const byKind = new Map<string, Iterable<readonly [string, unknown]>>(Object.entries(kinds))
  return {
    ...IN_MEMORY,
    isKeeping,
    join: keeper => {
      const check = CHECKS.get(keeper.schema)
      const isRecord = (value: unknown): value is Static<typeof keeper.schema> => {
        if (typeof value !== 'object' || value === null) return false
        if (CHECKED.get(value) === keeper.schema) return true
        const isKnown = check?.Check(value) === true
        if (isKnown) CHECKED.set(value, keeper.schema)
        return isKnown
      }
      const records = [...(byKind.get(keeper.kind) ?? [])].flatMap(([key, record]) =>
        isRecord(record) ? [[key, record] as const] : [],
      )
      keeper.resume(records, Number.POSITIVE_INFINITY)
      return { changed: () => undefined, changedNow: () => undefined }
    },
  }
}
