import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { cadenceSeconds } from '../../src/domain/attempts.js'
import { rfc3339 } from '../../src/domain/time.js'
import { bucketAsJson } from '../../src/outages/bucket-record.js'
import { detailAsJson } from '../../src/outages/detail-record.js'
import { mergedBuckets } from '../../src/replicas/merged-buckets.js'
import {
  mergedClients,
  mergedLifetimes,
  mergedMinutes,
  mergedOverrides,
  mergedRuns,
  mergedStates,
  mergedTotals,
} from '../../src/replicas/merged-counts.js'
import { mergedHistory } from '../../src/replicas/merged-history.js'
import { pastOutages } from '../../src/replicas/one-record.js'
import type { RecordSet } from '../../src/replicas/record-set.js'
import { OPERATOR } from '../support/breaker-set-up.js'
import { readings } from '../support/play.js'
import { type RecordedReplica, recordedReplica, shown } from '../support/recorded-replica.js'

/** Shortly before the end of a day, so that a scenario continues on the next day. */
const START = Date.parse('2026-01-31T23:59:00.000Z')

type Event =
  | { readonly kind: 'reading'; readonly mark: string }
  | { readonly kind: 'ask'; readonly at: number; readonly client: number; readonly run: string | undefined }
  | { readonly kind: 'pass'; readonly ms: number }
  | { readonly kind: 'override'; readonly state: 'open' | 'closed' }
  | { readonly kind: 'no override' }

const anyEvent: fc.Arbitrary<Event> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.constantFrom('+', '+', '-', 'x').map(mark => ({ kind: 'reading', mark }) as const),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant('ask' as const),
      at: fc.nat(2),
      client: fc.nat(3),
      run: fc.constantFrom(undefined, 'nightly', 'smoke'),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.constantFrom(1, 700, 40_000, 1_300_000).map(ms => ({ kind: 'pass', ms }) as const),
  },
  fc.constantFrom('open' as const, 'closed' as const).map(state => ({ kind: 'override', state }) as const),
  fc.constant({ kind: 'no override' } as const),
)

const anyPlay = fc.array(anyEvent, { maxLength: 60, size: 'max' })

/** Replicas with one clock that observe the same, and requests that go to any of them. */
function world() {
  let now = START
  let asked = 0
  const clock = () => now
  return {
    clock,
    pass: (ms: number) => {
      now += ms
    },
    /** Starts a replica, which joins the outage of another one. */
    replica(name: string, of?: RecordedReplica) {
      const outage = of?.own.outageLog.current()
      return recordedReplica(name, clock, {
        underWay: outage && {
          ...{ openedAt: outage.startedAt, cause: outage.cause, causeSince: outage.causeSince },
        },
      })
    },
    /** Sends an event to all; a request goes to one of them, and to the single proxy. */
    play(event: Event, replicas: readonly RecordedReplica[], one?: RecordedReplica) {
      const all = one === undefined ? replicas : [...replicas, one]
      if (event.kind === 'pass') now += event.ms
      else if (event.kind === 'reading') {
        for (const reading of readings(event.mark, now)) {
          now = reading.at
          for (const each of all) each.breaker.observe(reading)
        }
      } else if (event.kind === 'ask') {
        asked += 1
        const client = {
          address: `192.0.2.${event.client}`,
          request: `POST /configure ${asked}`,
          run: event.run,
        }
        replicas[event.at % replicas.length]?.ask(client)
        one?.ask(client)
      } else if (event.kind === 'override') {
        const request = { state: event.state, reason: 'a test', forSeconds: 86_400 }
        for (const each of all) each.breaker.setOverride(request, OPERATOR)
      } else for (const each of all) each.breaker.removeOverride(OPERATOR)
      now += 1
    },
  }
}

const RUNS = { numRuns: 40, includeErrorInReport: true }

test('three replicas that observe the same history have the same record as a single proxy', () => {
  fc.assert(
    fc.property(anyPlay, events => {
      const { play, replica, clock } = world()
      const [a, b, c, one] = [replica('a'), replica('b'), replica('c'), replica('one')]
      for (const event of events) play(event, [a, b, c], one)
      const record = c.view([a.set(), b.set(), c.set()])
      assert.deepEqual(shown(record, clock()), shown(one.own, clock()))
      assert.deepEqual(record.replicas, ['a', 'b', 'c'])
    }),
    RUNS,
  )
})

test('the same is true if one of them joined during an outage and another one died in it', () => {
  fc.assert(
    fc.property(anyPlay, anyPlay, anyPlay, (before, during, after) => {
      const { play, replica, clock } = world()
      const [a, b, one] = [replica('a'), replica('b'), replica('one')]
      for (const event of before) play(event, [a, b], one)
      play({ kind: 'no override' }, [a, b], one)
      play({ kind: 'reading', mark: '-' }, [a, b], one)
      const c = replica('c', a)
      play({ kind: 'reading', mark: '-' }, [a, b, c], one)
      for (const event of during) play(event, [a, b, c], one)
      const left = b.set()
      for (const event of after) play(event, [a, c], one)
      const record = c.view([a.set(), left, c.set()])
      assert.deepEqual(shown(record, clock()), shown(one.own, clock()))
    }),
    RUNS,
  )
})

test('a single set is shown as its own process shows it', () => {
  fc.assert(
    fc.property(anyPlay, events => {
      const { play, replica, clock } = world()
      const a = replica('a')
      for (const event of events) play(event, [a])
      assert.deepEqual(shown(a.view([a.set()]), clock()), shown(a.own, clock()))
    }),
    RUNS,
  )
})

test('neither the order of the sets nor merging some of them first changes what is shown', () => {
  fc.assert(
    fc.property(anyPlay, events => {
      const { play, replica, clock } = world()
      const [a, b, c] = [replica('a'), replica('b'), replica('c')]
      for (const event of events) play(event, [a, b, c])
      const sets = [a, b, c].map(each => each.set())
      const [first, second, third] = sets
      assert.ok(first !== undefined && second !== undefined && third !== undefined)
      const expected = shown(a.view(sets), clock())
      const renamed = sets.map((set, index) => ({ ...set, id: String(3 - index) }))
      assert.deepEqual(shown(a.view(renamed.toReversed()), clock()), expected)
      for (const [one, other, last] of [
        [first, second, third],
        [first, third, second],
        [second, third, first],
      ] as const) {
        assert.deepEqual(shown(a.view([merged([one, other], clock()), last]), clock()), expected)
      }
    }),
    RUNS,
  )
})

/** Two sets merged as if one process had recorded both. */
function merged(sets: readonly RecordSet[], now: number): RecordSet {
  const history = mergedHistory(sets, now)
  const { hours, days } = mergedBuckets(sets, history, now)
  return {
    ...{ id: 'merged', replica: 'merged' },
    records: {
      outage: history.outages,
      unreachable: history.periods,
      detail: new Map(
        [...history.outages.keys()].flatMap(key => {
          const detail = history.detail(key)
          return detail === undefined ? [] : [[key, detailAsJson(detail)] as const]
        }),
      ),
      hour: new Map(hours.map(hour => [rfc3339(hour.from), bucketAsJson(hour)])),
      day: new Map(
        days.map(day => [
          rfc3339(day.from),
          { ...bucketAsJson(day), through: rfc3339(day.from + 86_400_000) },
        ]),
      ),
      // Spans in progress are already included in the hours, and continue from now.
      lasting: new Map(
        [...(sets[0]?.records.lasting ?? [])].map(([key, record]) => [
          key,
          {
            ...record,
            span: { ...record.span, countedTo: rfc3339(now) },
            absence: record.absence && { ...record.absence, countedTo: rfc3339(now) },
          },
        ]),
      ),
      override: mergedOverrides(sets),
      client: mergedClients(sets),
      run: mergedRuns(sets),
      totals: mergedTotals(sets),
      state: mergedStates(sets),
      minute: mergedMinutes(sets),
      alive: mergedLifetimes(sets),
    },
  }
}

test('an outage whose start replicas noticed at different times is one outage, and names the first replica', () => {
  const { play, replica, clock, pass } = world()
  const [a, b] = [replica('a'), replica('b')]
  play({ kind: 'reading', mark: '+' }, [a, b])
  play({ kind: 'reading', mark: '-' }, [b])
  pass(5000)
  play({ kind: 'reading', mark: '-' }, [a, b])
  for (const at of [0, 1, 1]) play({ kind: 'ask', at, client: 0, run: undefined }, [a, b])
  const record = a.view([a.set(), b.set()])
  const [outage, ...others] = record.outageLog.outages()
  assert.deepEqual(others, [])
  assert.equal(outage?.startedAt, b.own.outageLog.current()?.startedAt)
  assert.notEqual(outage?.startedAt, a.own.outageLog.current()?.startedAt)
  assert.deepEqual([outage?.refused, outage?.endedAt, outage?.replica], [3, null, 'b'])
  assert.equal(shown(record, clock()).report.outages.count, 1)
})

test('an outage is in progress only if a running process reports it', () => {
  const { play, replica, pass } = world()
  const [a, b] = [replica('a'), replica('b')]
  play({ kind: 'reading', mark: '+' }, [a, b])
  play({ kind: 'reading', mark: '-' }, [a, b])
  const left = b.set()
  assert.equal(a.view([a.set(), left]).outageLog.current()?.endedAt, null)
  play({ kind: 'reading', mark: '+' }, [a])
  play({ kind: 'reading', mark: '+' }, [a])
  pass(10_000)
  play({ kind: 'reading', mark: '+' }, [a])
  const own = a.own.outageLog.outages()[0]
  assert.ok(own !== undefined && own.endedAt !== null)
  // The other replica has not published its later observations, or has died.
  const [outage] = a.view([a.set(), left]).outageLog.outages()
  assert.deepEqual([outage?.endedAt, outage?.closedBy?.kind], [own.endedAt, 'ready'])
})

test('an end that no process observed is unknown, and forecasts ignore the outage', () => {
  const { play, replica, pass, clock } = world()
  const [a, b] = [replica('a'), replica('b')]
  play({ kind: 'reading', mark: '-' }, [b])
  pass(1000)
  const left = b.set()
  pass(60_000)
  play({ kind: 'reading', mark: '+' }, [a])
  const sets = [a.set(), left]
  const [outage] = a.view(sets).outageLog.outages()
  assert.deepEqual([outage?.endedAt, outage?.closedBy], [clock() - 61_001, null])
  assert.deepEqual(pastOutages(sets, clock()), [])
})

test('processes that run one after the other are observed for their total time', () => {
  const { replica, pass, clock, play } = world()
  const a = replica('a')
  play({ kind: 'reading', mark: '+' }, [a])
  pass(600_000)
  const left = a.set()
  const b = replica('b')
  play({ kind: 'reading', mark: '+' }, [b])
  pass(600_000)
  const { report } = shown(b.view([left, b.set()]), clock())
  assert.equal(report.observedSeconds, (clock() - START) / 1000)
  assert.equal(report.notRunningSeconds, 0)
})

test('the rhythm of a client is derived from its attempts at all replicas', () => {
  const { replica, pass, play } = world()
  const [a, b, c] = [replica('a'), replica('b'), replica('c')]
  play({ kind: 'reading', mark: '-' }, [a, b, c])
  for (let index = 0; index < 20; index += 1) {
    play({ kind: 'ask', at: index, client: 0, run: undefined }, [a, b, c])
    pass(2999)
  }
  const [client] = a.view([a.set(), b.set(), c.set()]).clientLog.list()
  assert.ok(client !== undefined)
  assert.equal(cadenceSeconds(client.attempts), 3)
})
