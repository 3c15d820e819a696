import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  type Bucket,
  DAY_MS,
  dayOf,
  durationClass,
  emptyBucket,
  HOUR_MS,
  hourOf,
  hoursOf,
  medianMs,
  observedMs,
  together,
  withAbsence,
  withPhase,
  withRefusalsIn,
} from '../../src/domain/bucket.js'
import { plus, sumOf, totalOf } from '../../src/domain/refusal-counts.js'
import { PHASES } from '../../src/domain/vocabulary.js'
import { anyBatch } from '../support/refusal-batches.js'

const anyInstant = fc.double({ min: 0, max: 40 * DAY_MS, noNaN: true })

test('the parts of a span each lie in one hour, are contiguous, and make up the span', () => {
  fc.assert(
    fc.property(anyInstant, fc.double({ min: 0, max: 3 * DAY_MS, noNaN: true }), (from, lengthMs) => {
      const to = from + lengthMs
      const parts = hoursOf(from, to)
      if (to > from) {
        assert.equal(parts[0]?.from, from)
        assert.equal(parts.at(-1)?.to, to)
      } else assert.deepEqual(parts, [])
      for (const [index, part] of parts.entries()) {
        assert.ok(part.from < part.to)
        assert.ok(part.to <= hourOf(part.from) + HOUR_MS)
        if (index > 0) assert.equal(part.from, parts[index - 1]?.to)
      }
    }),
  )
})

test('contiguous spans add up to the exact number of milliseconds', () => {
  const anyPhases = fc.array(
    fc.record({
      phase: fc.constantFrom(...PHASES),
      ms: fc.double({ min: 0, max: 2 * HOUR_MS, noNaN: true }),
    }),
    { maxLength: 20 },
  )
  fc.assert(
    fc.property(anyInstant, anyPhases, (start, spans) => {
      const hours = new Map<number, Bucket>()
      let from = start
      for (const { phase, ms } of spans) {
        for (const part of hoursOf(from, from + ms)) {
          const hour = hourOf(part.from)
          hours.set(
            hour,
            withPhase(hours.get(hour) ?? emptyBucket(hour, part.from), phase, part.from, part.to),
          )
        }
        from += ms
      }
      const all = together(0, [...hours.values()])
      assert.equal(observedMs(all), Math.floor(from) - Math.floor(start))
      for (const hour of hours.values()) assert.ok(observedMs(hour) <= HOUR_MS)
    }),
  )
})

test('an hour that repeats because the clock was set back counts at most one hour', () => {
  const once = withPhase(emptyBucket(0), 'ready', 0, HOUR_MS - 1000)
  const twice = withAbsence(withPhase(once, 'waiting', 0, HOUR_MS), 0, HOUR_MS)
  assert.deepEqual(twice.ms, { ready: HOUR_MS - 1000, waiting: 1000 })
  assert.equal(withAbsence(twice, 0, 1000).absenceMs, HOUR_MS)
  assert.deepEqual(withPhase(twice, 'waiting', 0, 5), twice)
})

test('for any refusals, clients and runs add up to their hour, and hours to their day in any order', () => {
  fc.assert(
    fc.property(fc.array(anyBatch, { maxLength: 30 }), batches => {
      const hours = new Map<number, Bucket>()
      for (const batch of batches) {
        const hour = hourOf(batch.at)
        hours.set(hour, withRefusalsIn(hours.get(hour) ?? emptyBucket(hour), batch))
      }
      const starts = new Set([...hours.keys()].map(dayOf))
      const days = [...starts].map(day =>
        together(
          day,
          [...hours.values()].filter(({ from }) => dayOf(from) === day),
        ),
      )
      for (const each of [...hours.values(), ...days, together(0, days)]) {
        assert.deepEqual(totalOf(each.clients), each.refusals)
        assert.deepEqual(plus(totalOf(each.runs), each.withoutRun), each.refusals)
      }
      const whole = together(0, days)
      assert.deepEqual(whole.refusals, sumOf(batches))
      assert.equal(
        whole.spared,
        batches.reduce((sum, { spared }) => sum + spared, 0),
      )
    }),
  )
})

test('the longest spans of the hours are the longest of their day', () => {
  const span = (from: number, ms: number) => ({ from, ms })
  const outage = (from: number, ms: number) => ({ from, ms, cause: 'waiting' }) as const
  const day = together(0, [
    { ...emptyBucket(0), longestOutage: outage(1, 5), longestAbsence: span(1, 2) },
    {
      ...emptyBucket(HOUR_MS),
      longestOutage: outage(HOUR_MS, 7),
      longest: { waiting: span(3, 3), unreachable: null },
    },
    { ...emptyBucket(2 * HOUR_MS), longestOutage: outage(2 * HOUR_MS, 7) },
  ])
  assert.deepEqual(day.longestOutage, outage(HOUR_MS, 7))
  assert.deepEqual(day.longestAbsence, span(1, 2))
  assert.deepEqual(day.longest, { waiting: span(3, 3), unreachable: null })
})

test('the median of durations is accurate to a sixth, however they are combined', () => {
  const anyDurations = fc.array(fc.double({ min: 1, max: 600_000, noNaN: true }), {
    minLength: 1,
    maxLength: 200,
  })
  fc.assert(
    fc.property(anyDurations, durations => {
      const hours = durations.map(ms => ({ ...emptyBucket(0), durations: { [durationClass(ms)]: 1 } }))
      const sorted = [...durations].sort((a, b) => a - b)
      const median = sorted[Math.ceil(sorted.length / 2) - 1] ?? 0
      const found = medianMs(together(0, hours).durations) ?? 0
      assert.ok(found / median < 1.17 && median / found < 1.17, `${found} for ${median}`)
    }),
  )
  assert.equal(medianMs({}), null)
})
