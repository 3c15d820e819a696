import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Client } from '../../src/breaker/events.js'
import { LogSummary } from '../../src/observability/log-summary.js'
import { createLogger } from '../../src/observability/logger.js'
import { CLIENT, setUp } from '../support/breaker-set-up.js'

/** The summary line for these refusals. */
function lineAbout(clients: Iterable<Client>, mode: 'enforce' | 'observe' = 'enforce') {
  const { breaker, see } = setUp({ mode })
  const lines: string[] = []
  const destination = { write: (line: string) => lines.push(line) }
  const summary = new LogSummary(createLogger({ level: 'info', format: 'json', destination }))
  summary.attach(breaker)
  see('-')
  const decision = breaker.decide()
  assert.ok(!decision.admitted)
  for (const client of clients) breaker.refused(decision, client)
  summary.close()
  breaker.shutdown()
  assert.equal(lines.length, 1)
  const { time, ...fields } = JSON.parse(lines[0] ?? '')
  return { fields, bytes: lines[0]?.length ?? 0 }
}

const from = (address: string, count: number, more: Partial<Client> = {}): Client[] =>
  Array(count).fill({ ...CLIENT, address, ...more })

test('clients of one address are distinguished by their user agents', () => {
  const { fields } = lineAbout([
    ...from('192.0.2.1', 7, { userAgent: 'pytest' }),
    ...from('192.0.2.1', 3, { userAgent: 'desktop' }),
  ])
  assert.equal(fields.clients, 1)
  assert.deepEqual(fields.topClients, [
    { address: '192.0.2.1', userAgent: 'pytest', requests: 7 },
    { address: '192.0.2.1', userAgent: 'desktop', requests: 3 },
  ])
})

for (const mode of ['enforce', 'observe'] as const) {
  test(`mode ${mode}: the summary names the clients and test runs with the most requests`, () => {
    const { fields } = lineAbout(
      [
        ...from('192.0.2.1', 2, { userAgent: 'curl/8' }),
        ...from('192.0.2.2', 9, { userAgent: 'pytest', run: 'nightly-7' }),
        ...from('192.0.2.3', 5, { userAgent: '' }),
        ...from('192.0.2.4', 7, { userAgent: 'desktop', run: 'manual' }),
      ],
      mode,
    )
    assert.equal(fields.clients, 4)
    assert.equal(mode === 'enforce' ? fields.refused : fields.wouldRefuse, 23)
    assert.deepEqual(fields.topClients, [
      { address: '192.0.2.2', userAgent: 'pytest', requests: 9 },
      { address: '192.0.2.4', userAgent: 'desktop', requests: 7 },
      { address: '192.0.2.3', userAgent: '', requests: 5 },
    ])
    assert.deepEqual(fields.topRuns, [
      { run: 'nightly-7', requests: 9 },
      { run: 'manual', requests: 7 },
    ])
  })
}

test('names are shortened and on one line, and the line is bounded however many clients send one', () => {
  const evil = 'a\r\n{"level":"fatal"}\u001b[2J\u202e'.repeat(1000)
  const flood = Array.from({ length: 12_000 }, (_, index) => ({
    ...CLIENT,
    address: `2001:db8::${index.toString(16)}`,
    userAgent: evil,
    run: `run-${index}`,
  }))
  const { fields, bytes } = lineAbout([...flood, ...from('2001:db8::1', 3, { userAgent: evil })])
  assert.equal(fields.refused, 12_003)
  assert.equal(fields.clients, 10_000)
  assert.equal(fields.topClients.length, 3)
  assert.equal(fields.topRuns.length, 3)
  assert.deepEqual([fields.topClients[0].address, fields.topClients[0].requests], ['2001:db8::1', 4])
  assert.doesNotMatch(fields.topClients[0].userAgent, /[\p{Cc}\u202e]/u)
  assert.equal(fields.topClients[0].userAgent.length, 100)
  assert.ok(bytes < 2000)
})
