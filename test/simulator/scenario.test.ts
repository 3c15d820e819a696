import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fiberAt, maxSteps, parseScenario, type Scenario } from '../../src/simulator/scenario.js'

function scenario(text: string, stepMs?: number): Scenario {
  const parsed = parseScenario(text, stepMs)
  assert.ok(parsed.ok, `${text} is a scenario`)
  return parsed.scenario
}

function faultOf(text: string) {
  const parsed = parseScenario(text)
  assert.ok(!parsed.ok, `${text} is not a scenario`)
  return parsed.fault
}

/** The states in the middle of each of the first steps, as a drawing. */
function draw(from: Scenario, steps: number): string {
  const signs = { present: '+', missing: '-', partial: '~', absent: 'x' }
  return Array.from({ length: steps }, (_, step) => signs[fiberAt(from, (step + 0.5) * from.stepMs)]).join('')
}

test('each character of a scenario lasts one step', () => {
  assert.equal(draw(scenario('+-~x.'), 4), '+-~x')
})

test('a number repeats the character before it', () => {
  assert.equal(draw(scenario('+3-2~x.'), 7), '+++--~x')
})

test('a scenario starts again at its end', () => {
  assert.equal(draw(scenario('+-2'), 8), '+--+--+-')
})

test('a dot at the end keeps the last state', () => {
  assert.equal(draw(scenario('+-2.'), 8), '+-------')
})

test('white space in a scenario is ignored', () => {
  assert.deepEqual(scenario(' + 2\n-\t~ . '), scenario('+2-~.'))
})

test('a step lasts one second by default', () => {
  assert.equal(fiberAt(scenario('+-'), 999), 'present')
  assert.equal(fiberAt(scenario('+-'), 1000), 'missing')
  assert.equal(fiberAt(scenario('+-', 10), 10), 'missing')
})

test('before its start a scenario is in its first state', () => {
  assert.equal(fiberAt(scenario('+-'), -500), 'present')
})

test('an unknown character is reported with its position and what was expected', () => {
  assert.deepEqual(faultOf('+ ?'), {
    position: 2,
    expected: '"+", "-", "~" or "x", or "." at the end',
    given: '"?"',
  })
})

test('a scenario without a step is an error', () => {
  assert.deepEqual(faultOf(' '), {
    position: 1,
    expected: 'at least one step: "+", "-", "~" or "x"',
    given: 'nothing',
  })
  assert.equal(faultOf('').given, 'nothing')
  assert.deepEqual(faultOf('.'), { position: 0, expected: '"+", "-", "~" or "x"', given: '"."' })
})

test('a count must follow a character and be at least one', () => {
  assert.deepEqual(faultOf('+0'), { position: 1, expected: 'a count of 1 or more', given: '"0"' })
  assert.equal(faultOf('3+').position, 0)
  assert.equal(faultOf('+2 5').position, 3)
})

test('nothing may follow the dot', () => {
  assert.deepEqual(faultOf('+.-'), { position: 2, expected: 'nothing after "."', given: '"-"' })
  assert.equal(faultOf('+..').position, 2)
})

test('a scenario has at most 100,000 steps', () => {
  assert.equal(scenario(`+${maxSteps}`).states.length, 100_000)
  assert.deepEqual(faultOf(`+${maxSteps + 1}`), {
    position: 1,
    expected: 'at most 100000 steps in all',
    given: '"100001"',
  })
  assert.equal(faultOf(`+${maxSteps}-`).position, 7)
  assert.equal(faultOf('-+99999999999999999999999').position, 2)
})

test('a character outside the Basic Multilingual Plane is reported completely', () => {
  assert.equal(faultOf('+😀').given, '"😀"')
})

test('a step that no timer can wait for throws', () => {
  for (const stepMs of [0, -1, Number.NaN, 2 ** 31])
    assert.throws(() => parseScenario('+', stepMs), RangeError)
})
