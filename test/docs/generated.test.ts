import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Value } from 'typebox/value'
import { EVENTS, eventsPage } from '../../docs/generate/events.js'
import { logPage } from '../../docs/generate/log-lines.js'
import { LOG_NOTES } from '../../docs/generate/log-notes.js'
import { metricsPage } from '../../docs/generate/metrics.js'
import { readSource } from '../../docs/generate/source-texts.js'
import { EventRing } from '../../src/observability/event-ring.js'
import { ask, OPERATOR, setUpWithTimers } from '../support/breaker-set-up.js'
import { at } from '../support/harness.js'

test('the description of the events has every member that is published, and no other', t => {
  const { breaker, see, pass, change, clock } = setUpWithTimers(t)
  const group = { name: 'one', namespace: 'lab', isJoined: true, problem: null, since: 0, members: [] }
  const ring = new EventRing({
    clock,
    startedAt: 0,
    group: { ...group, areSeveral: true, isProber: true, skippedEntries: 0, origin: 'one00000-1111' },
  })
  const published: { readonly name: string; readonly data: unknown }[] = []
  ring.listen(({ text }) => {
    const [, name = '', data = ''] = /^event: (\w+)\ndata: (.*)$/m.exec(text) ?? []
    published.push({ name, data: JSON.parse(data) })
  })
  ring.attach(breaker)
  const override = { state: 'open', reason: 'maintenance', forSeconds: 60 } as const

  // The circuit opens, changes its cause, recovers and closes.
  see('+-xxx')
  for (const mode of ['enforce', 'observe'] as const) {
    change({ mode })
    ask(breaker)
  }
  pass(5000, 1000)
  breaker.setOverride(override, OPERATOR)
  breaker.setOverride({ ...override, silent: true }, OPERATOR)
  breaker.removeOverride(OPERATOR)
  breaker.setOverride(override, OPERATOR)
  pass(70_000, 1000)
  see('++++++++')
  const reading = { at: clock(), source: 'client', kind: 'ready', metadata: { prr: 1 } } as const
  breaker.emit('reading', reading, false, false)
  ring.close()

  for (const [name, { data }] of Object.entries(EVENTS)) {
    const events = published.filter(event => event.name === name)
    assert.ok(events.length > 0, `${name} was published`)
    for (const event of events) {
      assert.ok(
        Value.Check(data, event.data),
        `${name}: ${JSON.stringify(event.data)} ${JSON.stringify(Value.Errors(data, event.data))}`,
      )
    }
    const neverSeen = Object.keys(data.properties).filter(member =>
      events.every(event => at(event.data, member) === undefined),
    )
    assert.deepEqual(neverSeen, [], `${name} has members that are never published`)
  }
  assert.deepEqual(
    published.filter(({ name }) => !Object.keys(EVENTS).includes(name)),
    [],
  )
  assert.match(eventsPage(), /^\| `earlierCause`\? \|/m)
})

test('every log line in the source is found with its level and members, and has a note', () => {
  const { logCalls, errorCalls } = readSource()
  const messages = new Set(logCalls.flatMap(call => call.messages))
  assert.ok(messages.size > 40, `only ${messages.size} messages were found`)
  assert.ok(errorCalls.length > 20, `only ${errorCalls.length} errors were found`)
  const listening = logCalls.find(call => call.messages.includes('listening'))
  assert.deepEqual(listening?.levels, ['info'])
  assert.ok(listening.fields.includes('url') && listening.fields.includes('moreUrls?'), `${listening.fields}`)
  assert.ok(errorCalls.some(call => call.statusCode === '413'))
  assert.match(logPage(logCalls), /^\| `listening` \|/m)
})

test('a message without a note fails the generation, and so does a note without a message', () => {
  const calls = Object.keys(LOG_NOTES).map(message => ({
    file: 'app.ts',
    levels: ['info'],
    messages: [message],
    fields: [],
  }))
  assert.ok(logPage(calls).includes('## Level `info`'))
  const added = { file: 'app.ts', levels: ['warn'], messages: ['something new'], fields: [] }
  assert.throws(() => logPage([...calls, added]), /no note on “something new”[\s\S]*npm run docs/)
  assert.throws(() => logPage(calls.slice(1)), /a note on “.+”, which is not logged/)
})

test('a note on a metric that does not exist fails the generation', () => {
  assert.throws(
    () => metricsPage('# HELP focus_breaker_x An x.\n# TYPE focus_breaker_x gauge\nfocus_breaker_x 1\n'),
    /notes on unknown metrics/,
  )
})
