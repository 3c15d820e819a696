import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Client } from '../../src/breaker/events.js'
import { ClientLog } from '../../src/observability/client-log.js'
import { CLIENT, OPERATOR, setUp } from '../support/breaker-set-up.js'

test('refused clients are listed by address and user agent, the most recently seen first', () => {
  const { refuse, pass, clients } = knowing()
  refuse({ address: '192.0.2.1', userAgent: 'a' })
  pass(1000)
  refuse({ address: '192.0.2.2', userAgent: 'a' })
  pass(1000)
  refuse({ address: '192.0.2.1', userAgent: 'b' })
  pass(1000)
  refuse({ address: '192.0.2.1', userAgent: 'a' })
  assert.deepEqual(
    clients.list().map(({ address, userAgent, attempts: { first, last, attempts, operations } }) => {
      return [address, userAgent, last - first, attempts, operations]
    }),
    [
      ['192.0.2.1', 'a', 3000, 2, 1],
      ['192.0.2.1', 'b', 0, 1, 1],
      ['192.0.2.2', 'a', 0, 1, 1],
    ],
  )
})

test('a client without a user agent is listed as well', () => {
  const { refuse, clients } = knowing()
  refuse({ userAgent: '' })
  assert.equal(clients.list()[0]?.userAgent, '')
})

test('an operation is reported once, however often it is tried', () => {
  const { refuse, pass, operations } = knowing()
  for (let attempt = 0; attempt < 4; attempt += 1) {
    refuse()
    pass(5000)
  }
  assert.equal(operations(), 1)
  refuse({ request: 'POST /configure 99' })
  assert.equal(operations(), 2)
  refuse({ address: '192.0.2.200' })
  assert.equal(operations(), 3)
  pass(60_001)
  refuse()
  assert.equal(operations(), 4)
})

test('a request refused after the circuit has closed is a new operation', () => {
  const { refuse, see, operations } = knowing()
  refuse()
  see('++++++ -')
  refuse()
  assert.equal(operations(), 2)
})

test('refusals by an override are remembered, and are not operations of the outage', () => {
  const { breaker, refuse, clients, operations } = knowing()
  breaker.setOverride({ state: 'open', reason: 'fiber work', forSeconds: 60 }, OPERATOR)
  refuse()
  assert.equal(operations(), 0)
  assert.equal(clients.list().length, 1)
})

test('a request refused by an outage right after an override is an operation of the outage', () => {
  const { breaker, refuse, operations } = knowing()
  breaker.setOverride({ state: 'open', reason: 'fiber work', forSeconds: 60 }, OPERATOR)
  refuse()
  assert.equal(operations(), 0)
  breaker.removeOverride(OPERATOR)
  refuse()
  assert.equal(operations(), 1)
})

test('in mode observe the clients that would have been refused are listed, with their number of requests', () => {
  const { refuse, change, clients } = knowing()
  refuse()
  change({ mode: 'observe' })
  refuse()
  refuse()
  refuse({ address: '192.0.2.8' })
  assert.deepEqual(
    clients
      .list()
      .map(({ address, attempts: { attempts, wouldRefuse } }) => ({ address, attempts, wouldRefuse })),
    [
      { address: '192.0.2.8', attempts: 1, wouldRefuse: 1 },
      { address: '192.0.2.7', attempts: 3, wouldRefuse: 2 },
    ],
  )
})

test('however many user agents an address sends, ten are counted separately and the rest together, and none is lost', () => {
  const { refuse, clients } = knowing()
  refuse({ address: '192.0.2.250', userAgent: 'the real one' })
  for (let count = 0; count < 20_000; count += 1) refuse({ userAgent: `invented ${count}` })
  const list = clients.list()
  assert.equal(list.length, 12)
  assert.equal(
    list.reduce((sum, { attempts }) => sum + attempts.attempts, 0),
    20_001,
  )
  assert.equal(list.find(({ userAgent }) => userAgent === null)?.attempts.attempts, 19_990)
  assert.ok(list.some(({ userAgent }) => userAgent === 'the real one'))
})

test('a thousand addresses are remembered, and the least recently seen is dropped first', () => {
  const { refuse, pass, clients } = knowing()
  for (let count = 0; count < 20_000; count += 1) {
    refuse({ address: `2001:db8::${count.toString(16)}` })
    pass(1)
    // The first of all addresses continues.
    if (count % 500 === 0) refuse({ address: '192.0.2.7' })
  }
  const addresses = clients.list().map(({ address }) => address)
  assert.equal(addresses.length, 1000)
  assert.equal(addresses[0], '2001:db8::4e1f')
  assert.ok(addresses.includes('192.0.2.7'))
  assert.ok(!addresses.includes('2001:db8::0'))
})

test('a substring does not keep the whole original string in memory', t => {
  const { refuse, clients } = knowing()
  const length = 100_000
  const before = process.memoryUsage()
  // As from a socket: each text is a new string, of which a part is kept.
  const received = (fill: number) => Buffer.alloc(length, fill).toString('latin1')
  for (let count = 0; count < 1000; count += 1) {
    for (let agent = 0; agent < 2; agent += 1) {
      refuse({
        address: `2001:db8::${count.toString(16)}`,
        userAgent: received(97 + agent).slice(0, 200),
        request: received(65 + agent).slice(-200),
      })
    }
  }
  const after = process.memoryUsage()
  const grown = (after.rss - before.rss) / 2 ** 20
  t.diagnostic(`400 MB of texts were cut for 2000 clients: ${Math.round(grown)} MB more`)
  assert.equal(clients.list().length, 2000)
  assert.ok(grown < 200, `${grown} MB`)
})

/** A client log attached to a breaker that refuses. */
function knowing() {
  const all = setUp()
  all.see('+-')
  let operations = 0
  const clients = new ClientLog(all.clock, () => {
    operations += 1
  })
  clients.attach(all.breaker)
  return {
    ...all,
    clients,
    operations: () => operations,
    refuse: (client: Partial<Client> = {}) => {
      const decision = all.breaker.decide()
      assert.ok(!decision.admitted)
      all.breaker.refused(decision, { ...CLIENT, ...client })
    },
  }
}

test('a flood of addresses that are seen once does not push out a client that keeps asking', () => {
  const { refuse, clients } = knowing()
  for (let count = 0; count < 3; count += 1) refuse({ address: '192.0.2.1' })
  for (let count = 0; count < 3000; count += 1) refuse({ address: `2001:db8::${count.toString(16)}` })
  const known = clients.list()
  assert.equal(known.length, 1000)
  assert.equal(known.find(({ address }) => address === '192.0.2.1')?.attempts.attempts, 3)
})
