import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { EventRing } from '../../src/observability/event-ring.js'
import { ask, OPERATOR, setUpWithTimers } from '../support/breaker-set-up.js'

test('every event has the next number, and its type', t => {
  const { see, breaker, heard } = listening(t)
  see('+-')
  breaker.setOverride({ state: 'closed', reason: 'maintenance', forSeconds: 60 }, OPERATOR)
  assert.deepEqual(heard(), [
    '7-1 reading',
    '7-2 transition',
    '7-3 reading',
    '7-4 transition',
    '7-5 override',
  ])
})

test('a reading of the same kind is published at most once a second', t => {
  const { ready, heard } = listening(t)
  ready(1000)
  const before = heard().length
  for (const at of [1100, 1500, 1999]) ready(at)
  assert.equal(heard().length, before)
  ready(2000)
  assert.equal(heard().length, before + 1)
})

test('readings of one source do not hide those of another, and an outdated one says so', t => {
  const { breaker, texts } = listening(t)
  const waiting = { kind: 'waiting', metadata: {}, missing: ['prr'] } as const
  for (let at = 1000; at < 5000; at += 100) {
    breaker.observe({ at, source: 'configure', ...waiting })
    if (at % 1000 === 0) breaker.observe({ at: at - 50, source: 'probe', ...waiting })
  }
  const readings = texts.filter(text => text.includes('event: reading'))
  const sources = readings.map(text => /"source":"(\w+)"/.exec(text)?.[1])
  assert.deepEqual(
    sources,
    [...Array(4)].flatMap(() => ['configure', 'probe']),
  )
  assert.deepEqual(
    readings.map(text => text.includes('"outdated":true')),
    sources.map(source => source === 'probe'),
  )
})

test('refusals are published as a sum, one second after the ledger wrote them', t => {
  const { see, breaker, pass, ring, heard, texts } = listening(t)
  see('+-')
  const before = heard().length
  for (let count = 0; count < 30; count += 1) ask(breaker)
  pass(1000)
  assert.equal(heard().length, before, 'not before the counts are on disk')
  pass(1000)
  assert.deepEqual(heard().slice(before), [`7-${before + 1} refused`])
  assert.match(texts.at(-1) ?? '', /"count":30\}\n\n$/)
  ask(breaker)
  pass(5000, 1000)
  assert.equal(heard().length, before + 2)
  assert.match(texts.at(-1) ?? '', /"count":1\}\n\n$/)
  ask(breaker)
  ring.close()
  pass(5000, 1000)
  assert.equal(heard().length, before + 2, 'nothing is published after closing')
})

test('a client resumes after the event that it names, and a thousand events are kept', t => {
  const { see, ring, texts } = listening(t)
  see('+-')
  assert.equal(ring.after('7-2'), texts.slice(2).join(''))
  assert.equal(ring.after('7-4'), '')
  for (let count = 0; count < 1000; count += 1) see(count % 2 === 0 ? 'x' : '-')
  assert.equal(ring.after('7-0'), texts.slice(-1000).join(''))
})

for (const id of [undefined, '', '8-1', '7', '7-x']) {
  test(`the id ${id} resumes nothing`, t => {
    const { see, ring } = listening(t)
    see('+-')
    assert.equal(ring.after(id), '')
  })
}

test('refusals are reported when their counts are on disk, however late that is, and none is lost', t => {
  let writtenAt = 0
  const { see, breaker, pass, texts } = listening(t, at => writtenAt >= at)
  const counts = () => texts.flatMap(text => /"count":(\d+)/.exec(text)?.[1] ?? [])
  see('+-')
  ask(breaker)
  pass(5000, 1000)
  ask(breaker)
  pass(3000, 1000)
  assert.deepEqual(counts(), [])
  writtenAt = 6000
  pass(1000)
  assert.deepEqual(counts(), ['1'])
  writtenAt = Number.POSITIVE_INFINITY
  pass(2000, 1000)
  assert.deepEqual(counts(), ['1', '1'])
})

/** The events of a breaker whose timers are moved by hand, and a listener of them. */
function listening(t: TestContext, hasWritten?: (at: number) => boolean) {
  const all = setUpWithTimers(t)
  const ring = new EventRing({ clock: all.clock, startedAt: 7, hasWritten })
  ring.attach(all.breaker)
  const texts: string[] = []
  ring.listen(text => texts.push(text))
  return {
    ...all,
    ring,
    texts,
    ready: (at: number) => all.breaker.observe({ at, source: 'probe', kind: 'ready', metadata: {} }),
    heard: () => texts.map(text => text.replace(/^id: (\S+)\nevent: (\S+)\n.*$/s, '$1 $2')),
  }
}
