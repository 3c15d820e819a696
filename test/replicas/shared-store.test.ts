import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { HistoryFile } from '../../src/outages/file.js'
import { historyPath } from '../support/kept-buckets.js'
import { readings } from '../support/play.js'
import { recordedReplica } from '../support/recorded-replica.js'

const START = Date.parse('2026-01-31T08:00:00.000Z')

test('each change is returned once, without an extra write of the history file', t => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const path = historyPath(t)
  const clock = () => START
  const file = new HistoryFile({ file: path, clock, onFault: error => assert.equal(error, undefined) })
  const { store, breaker, ask } = recordedReplica('a', clock, { base: file })
  file.attach(breaker)
  for (const reading of readings('+-', START - 2000)) breaker.observe(reading)
  ask({ run: 'nightly' })
  file.write()
  store.changes(START)
  const written = readFileSync(path, 'utf8')
  // Only time passes. The file is written at least every ten seconds.
  for (let count = 1; count <= 18; count += 1) {
    const kinds = new Set(store.changes(START + count * 1000).map(([kind]) => kind))
    assert.deepEqual([...kinds].sort(), ['alive', 'lasting'])
    t.mock.timers.tick(500)
  }
  assert.equal(readFileSync(path, 'utf8'), written)
  ask({ run: 'nightly' })
  const changed = new Set(store.changes(START + 21_000).map(([kind]) => kind))
  for (const kind of ['outage', 'detail', 'hour', 'client', 'run', 'totals', 'minute'] as const) {
    assert.ok(changed.has(kind), kind)
  }
  // Changes that were sent to the other replicas meanwhile reach the file as well.
  file.write()
  const lines = readFileSync(path, 'utf8').slice(written.length)
  for (const kind of ['outage', 'detail', 'hour', 'client', 'run', 'totals', 'minute']) {
    assert.match(lines, new RegExp(`"${kind}":`))
  }
  breaker.shutdown()
  file.close()
})

test('the id of the records is kept in the history file, and is new without one', t => {
  const path = historyPath(t)
  const clock = () => START
  const idOf = (file?: string) => {
    const base = file === undefined ? undefined : new HistoryFile({ file, clock, onFault: () => undefined })
    const { store, breaker } = recordedReplica('a', clock, base === undefined ? {} : { base })
    const { id } = store.own
    breaker.shutdown()
    base?.close()
    return id
  }
  assert.equal(idOf(path), idOf(path))
  assert.notEqual(idOf(), idOf())
})
