import assert from 'node:assert/strict'
import { describe, type TestContext, test } from 'node:test'
import type { ReplicaGroup } from '../../src/domain/replica-group.js'
import { EventRing, type PublishedEvent } from '../../src/observability/event-ring.js'
import { ask, OPERATOR, setUp, setUpWithTimers } from '../support/breaker-set-up.js'

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

test('readings of one source do not hide those of another, and an outdated reading is marked', t => {
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

test('refusals are published as a count, one second after they were written to the history', t => {
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

test('a client resumes after the event with the given id, and a thousand events are kept', t => {
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

test('refusals are reported only when their counts are on disk, and none is lost', t => {
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

describe('a client that comes from another replica', () => {
  /** Two replicas with the same events, and a client that has seen those of the first up to an index. */
  const both = (t: TestContext) => {
    const [one, other] = [inGroup('one'), inGroup('other')]
    const first = listening(t, undefined, one)
    const second = listening(t, undefined, other)
    return { first, second, see: (drawing: string) => [first, second].map(each => each.see(drawing)) }
  }
  const typesOf = (text: string) => [...text.matchAll(/event: (\S+)/g)].map(([, type]) => type)
  const idOf = (text = '') => /^id: (\S+)/.exec(text)?.[1]

  test('gets the transitions and overrides that it has not seen, and none that it has', t => {
    const { first, second, see } = both(t)
    see('+-')
    const last = first.texts.at(-1)
    see('++++++-')
    first.breaker.setOverride({ state: 'closed', reason: 'a trial', forSeconds: 60 }, OPERATOR)
    second.breaker.setOverride({ state: 'closed', reason: 'a trial', forSeconds: 60 }, OPERATOR)
    assert.deepEqual(typesOf(second.ring.after(idOf(last))), [
      ...['transition', 'transition', 'transition', 'override'],
    ])
    for (const [index, text] of first.texts.entries()) {
      const later = first.texts.slice(index + 1).flatMap(typesOf)
      assert.deepEqual(
        typesOf(second.ring.after(idOf(text))),
        later.filter(type => type === 'transition' || type === 'override'),
        `after ${idOf(text)}`,
      )
    }
  })

  test('gets no event again that the other replica has sent, even if this one is late', t => {
    const { first, second } = both(t)
    second.see('+')
    first.see('+-')
    const seen = second.ring.seenElsewhere(idOf(first.texts.at(-1)))
    assert.ok(seen !== undefined)
    assert.equal(second.ring.after(idOf(first.texts.at(-1))), '')
    const live: PublishedEvent[] = []
    second.ring.listen(event => live.push(event))
    second.see('-++')
    assert.deepEqual(
      live.filter(event => !second.ring.isSeen(event, seen)).flatMap(({ text }) => typesOf(text)),
      ['reading', 'reading', 'reading', 'transition'],
      'only the transition to half-open is new',
    )
  })

  test('gets no events from before the start of its first replica', t => {
    const second = listening(t, undefined, inGroup('other'))
    second.see('+-++++++-')
    const late = new EventRing({ clock: second.clock, startedAt: second.clock(), group: inGroup('late') })
    const texts: string[] = []
    late.listen(({ text }) => texts.push(text))
    late.attach(second.breaker)
    second.see('-')
    assert.deepEqual(typesOf(second.ring.after(idOf(texts[0]))), [])
  })

  test('an invalid id, or an id of a process without replicas, resumes nothing', t => {
    const { second, see } = both(t)
    see('+-')
    const odd = [
      '7-1',
      '7.abc-1',
      '7.abc-1-2',
      '7.abc-1-2.',
      '7.abc-x-2.3',
      `7.abc-1-${'z'.repeat(30)}.1`,
      '7.a.b-1-2.3',
    ]
    for (const id of odd) {
      assert.equal(second.ring.after(id), '', id)
      assert.equal(second.ring.seenElsewhere(id), undefined, id)
    }
  })

  test('its own replica resumes as usual, and events name the replica if there are several', t => {
    const { first, see } = both(t)
    see('+-')
    const own = idOf(first.texts[1])
    assert.equal(first.ring.after(own), first.texts.slice(2).join(''))
    assert.equal(first.ring.seenElsewhere(own), undefined)
    assert.ok(first.texts.every(text => text.includes('"replica":"one"')))
    const single = listening(t, undefined, { ...inGroup('one'), areSeveral: false })
    single.see('+-')
    assert.ok(single.texts.every(text => !text.includes('replica')))
  })

  test('a reading of another replica is marked', t => {
    const { first } = both(t)
    const reading = { at: 1000, source: 'probe', kind: 'ready', metadata: {} } as const
    first.breaker.emit('reading', reading, true, false)
    first.breaker.emit('reading', { ...reading, at: 2000 }, true, true)
    assert.deepEqual(
      first.texts.map(text => text.includes('"elsewhere":true')),
      [true, false],
    )
  })
})

function inGroup(name: string): ReplicaGroup & { readonly origin: string } {
  return {
    ...{ name, namespace: 'lab', isJoined: true, problem: null, since: 0, members: [], areSeveral: true },
    ...{ isProber: false, skippedEntries: 0, origin: `${name}00000000-1111` },
  }
}

/** The events of a breaker with mocked timers, and a listener for them. */
function listening(
  t: TestContext,
  hasWritten?: (at: number) => boolean,
  group?: ReplicaGroup & { readonly origin: string },
) {
  const all = group === undefined ? setUpWithTimers(t) : setUp()
  const ring = new EventRing({ clock: all.clock, startedAt: group === undefined ? 7 : 0, hasWritten, group })
  ring.attach(all.breaker)
  const texts: string[] = []
  ring.listen(({ text }) => texts.push(text))
  return {
    ...all,
    ring,
    texts,
    ready: (at: number) => all.breaker.observe({ at, source: 'probe', kind: 'ready', metadata: {} }),
    heard: () => texts.map(text => text.replace(/^id: (\S+)\nevent: (\S+)\n.*$/s, '$1 $2')),
  }
}
