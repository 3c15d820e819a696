import assert from 'node:assert/strict'
import { test } from 'node:test'
import { answered, CLIENT, OPERATOR, setUp } from '../support/breaker-set-up.js'

/** Admits one request, which succeeds at once, and returns the addresses of the clients reported so far. */
function setUpAdmitted(settings: Parameters<typeof setUp>[0] = {}) {
  const all = setUp(settings)
  const reported: string[] = []
  all.breaker.on('admitted', ({ at, client }) => reported.push(`${client.address} at ${at}`))
  const admit = (needsFiber = true) => {
    const admission = all.breaker.admit(needsFiber, { client: CLIENT })
    if (admission.admitted) admission.permit.settle(answered(200))
    return admission.admitted
  }
  return { ...all, reported, admit }
}

test('a request that is admitted while the circuit is half-open is reported, with its client', () => {
  const { see, admit, reported, pass } = setUpAdmitted()
  see('+ - ++')
  assert.ok(admit())
  pass(500)
  assert.ok(admit())
  assert.deepEqual(reported, [`${CLIENT.address} at 4000`, `${CLIENT.address} at 4500`])
})

test('a request that is admitted in any other state, or by an override, is not reported', () => {
  const { breaker, see, admit, reported } = setUpAdmitted()
  see('+')
  assert.ok(admit())
  see('-')
  assert.ok(!admit())
  // A historic job passes in every state.
  assert.ok(admit(false))
  see('++')
  assert.ok(admit(false))
  breaker.setOverride({ state: 'closed', reason: 'a test', forSeconds: 60 }, OPERATOR)
  assert.ok(admit())
  assert.deepEqual(reported, [])
})

test('a request that passes only because mode observe refuses nothing is not reported as admitted', () => {
  const { breaker, see, reported, admit } = setUpAdmitted({
    mode: 'observe',
    recovery: { initialConcurrency: 1, maxConcurrency: 1, rampMs: 3000 },
  })
  see('+ - ++')
  const held = breaker.admit(true, { client: { ...CLIENT, address: '192.0.2.1' } })
  assert.ok(held.admitted)
  assert.ok(admit())
  assert.deepEqual(reported, ['192.0.2.1 at 4000'])
})

test('a request without a known client is still admitted', () => {
  const { breaker, see, reported } = setUpAdmitted()
  see('+ - ++')
  assert.ok(breaker.admit().admitted)
  assert.deepEqual(reported, [])
})
