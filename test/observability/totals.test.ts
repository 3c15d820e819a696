import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Totals } from '../../src/observability/totals.js'
import { CLIENT, setUp } from '../support/breaker-set-up.js'

test('refusals are counted separately from requests that only mode observe forwards', () => {
  const { breaker, change, see } = setUp()
  const totals = new Totals()
  totals.attach(breaker)
  see('+-')
  const refuse = () => {
    const decision = breaker.decide()
    assert.ok(!decision.admitted)
    breaker.refused(decision, CLIENT)
  }
  refuse()
  refuse()
  change({ mode: 'observe' })
  refuse()
  assert.deepEqual(totals.counts(), { forwarded: 0, refused: 2, wouldRefuse: 1, probes: 0, overloaded: 0 })
})

test('each reported request and probe is counted once', () => {
  const totals = new Totals()
  for (let count = 0; count < 3; count += 1) totals.forwarded()
  for (let count = 0; count < 2; count += 1) totals.probed()
  totals.overloaded()
  assert.deepEqual(totals.counts(), { forwarded: 3, refused: 0, wouldRefuse: 0, probes: 2, overloaded: 1 })
})
