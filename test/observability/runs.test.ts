import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Runs } from '../../src/observability/runs.js'
import { CLIENT, setUp } from '../support/breaker-set-up.js'

test('a run counts forwarded and refused requests, from its first request to its last', () => {
  const { refuse, pass, runs, clock } = counting()
  const start = clock()
  refuse('nightly-1')
  pass(1000)
  refuse('nightly-1')
  runs.forwarded('nightly-1')
  runs.forwarded('nightly-2')
  refuse(undefined)
  pass(1000)
  runs.forwarded('nightly-1')
  assert.deepEqual(runs.get('nightly-1'), {
    forwarded: 2,
    refused: 2,
    wouldRefuse: 0,
    first: start,
    last: start + 2000,
  })
  assert.deepEqual(runs.get('nightly-2')?.forwarded, 1)
  assert.equal(runs.get('nightly-3'), undefined)
})

test('in mode observe the requests of a run that would have been refused are counted', () => {
  const { refuse, change, runs } = counting()
  change({ mode: 'observe' })
  refuse('nightly')
  const { refused, wouldRefuse } = runs.get('nightly') ?? {}
  assert.deepEqual({ refused, wouldRefuse }, { refused: 0, wouldRefuse: 1 })
})

test('a thousand runs are remembered, including a run that continues', () => {
  const { runs } = counting()
  for (let count = 0; count < 5000; count += 1) {
    runs.forwarded(`run-${count}`)
    runs.forwarded('the long one')
  }
  assert.equal(runs.get('the long one')?.forwarded, 5000)
  assert.equal(runs.get('run-4999')?.forwarded, 1)
  assert.equal(runs.get('run-4000'), undefined)
})

for (const times of [1, 2, 9]) {
  test(`a flood of invented runs, each sent ${times} times, does not push out the real ones`, () => {
    const { runs } = counting()
    const real = Array.from({ length: 500 }, (_, index) => `real-${index}`)
    for (const name of real) for (let count = 0; count < 10; count += 1) runs.forwarded(name)
    for (let count = 0; count < 20_000; count += 1) {
      for (let time = 0; time < times; time += 1) runs.forwarded(`invented-${count}`)
    }
    for (const name of real) assert.equal(runs.get(name)?.forwarded, 10, name)
  })
}

test('a new run is remembered in the middle of a flood, and when all others have many requests', () => {
  const { runs } = counting()
  for (let run = 0; run < 3000; run += 1) {
    for (let count = 0; count < 12; count += 1) runs.forwarded(`earlier-${run}`)
  }
  for (let request = 0; request < 50; request += 1) {
    runs.forwarded('the new one')
    for (let count = 0; count < 50; count += 1) runs.forwarded(`invented-${request}-${count}`)
  }
  assert.equal(runs.get('the new one')?.forwarded, 50)
  // Among runs of the same rank, the least recently seen is dropped first.
  assert.equal(runs.get('earlier-0'), undefined)
  assert.equal(runs.get('earlier-2999')?.forwarded, 12)
})

/** The runs attached to a breaker that refuses. */
function counting() {
  const all = setUp()
  all.see('+-')
  const runs = new Runs(all.clock)
  runs.attach(all.breaker)
  return {
    ...all,
    runs,
    refuse: (run: string | undefined) => {
      const decision = all.breaker.decide()
      assert.ok(!decision.admitted)
      all.breaker.refused(decision, { ...CLIENT, run })
    },
  }
}
