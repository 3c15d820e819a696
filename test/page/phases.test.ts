import assert from 'node:assert/strict'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { pathToFileURL } from 'node:url'
import { repositoryRoot } from '../support/harness.js'

/** The page's own module. The page has no build step, so it is loaded unchanged. */
const { lastedBy, outagesIn, pastOf, phaseOf, spansOf } = await import(
  pathToFileURL(join(repositoryRoot, 'page/phases.js')).href
)

const MINUTE_MS = 60_000
const START = Date.parse('2026-01-02T10:00:00.000Z')
const at = (minute: number) => new Date(START + minute * MINUTE_MS).toISOString()

describe('the phase of an entry', () => {
  const CIRCUITS = [
    ['closed', null, 'ready'],
    ['half-open', 'waiting', 'recovering'],
    ['half-open', 'unreachable', 'recovering'],
    ['open', 'waiting', 'waiting'],
    ['open', 'unreachable', 'unreachable'],
    ['open', 'starting', 'starting'],
    [null, null, 'not-running'],
  ] as const
  const OVERRIDES = [
    [undefined, undefined],
    [null, undefined],
    [{ state: 'open', silent: false }, 'stopped'],
    [{ state: 'open', silent: true }, 'maintenance'],
    [{ state: 'closed', silent: false }, 'let-through'],
  ] as const
  for (const [state, cause, byReadings] of CIRCUITS) {
    for (const [override, byOverride] of OVERRIDES) {
      const expected = state === null ? 'not-running' : (byOverride ?? byReadings)
      test(`is ${expected} for ${state}, ${cause}, and the override ${JSON.stringify(override)}`, () => {
        assert.equal(phaseOf({ from: at(0), state, cause, override }), expected)
      })
    }
  }
})

/** A timeline as a drawing, one minute a letter: ready, waiting, unreachable, half-open, or not running. */
function drawn(letters: string) {
  const entries = [...letters].map((letter, minute) => ({
    from: at(minute),
    state: letter === '+' ? 'closed' : letter === '/' ? 'half-open' : letter === '.' ? null : 'open',
    cause: letter === '-' || letter === '/' ? 'waiting' : letter === 'x' ? 'unreachable' : null,
    override: null,
  }))
  return spansOf(entries, START + letters.length * MINUTE_MS)
}

describe('the number of outages', () => {
  const DRAWINGS: readonly (readonly [string, number])[] = [
    ['', 0],
    ['+++', 0],
    ['+--+', 1],
    ['+-x-+', 1],
    ['+-/-/+', 1],
    ['+-+x+', 2],
    ['--+', 1],
    ['+-.-+', 1],
    ['/+-', 1],
  ]
  for (const [letters, number] of DRAWINGS) {
    test(`is ${number} in "${letters}"`, () => assert.equal(outagesIn(drawn(letters)), number))
  }
})

test('the durations of all phases add up to the time that was drawn', () => {
  const spans = drawn('++--x/+.+')
  const lasted = lastedBy(spans, START, START + 9 * MINUTE_MS)
  const inMinutes = [...lasted].map(([phase, ms]) => [phase, ms / MINUTE_MS])
  assert.deepEqual(inMinutes, [
    ['ready', 4],
    ['waiting', 2],
    ['unreachable', 1],
    ['recovering', 1],
    ['not-running', 1],
  ])
  // Only the time in the window counts.
  const clipped = lastedBy(spans, START + 1.5 * MINUTE_MS, START + 4.25 * MINUTE_MS)
  assert.deepEqual(
    [...clipped].map(([phase, ms]) => [phase, ms / MINUTE_MS]),
    [
      ['ready', 0.5],
      ['waiting', 2],
      ['unreachable', 0.25],
    ],
  )
})

test('outages from before the history come first, each cause with its time', () => {
  const history = { from: at(60), states: [{ from: at(60), state: 'closed', cause: null }] }
  const outages = [
    { startedAt: at(50), endedAt: null, cause: 'waiting' },
    {
      ...{ startedAt: at(10), endedAt: at(30), cause: 'unreachable' },
      causes: [
        { cause: 'waiting', from: at(10), to: at(20) },
        { cause: 'unreachable', from: at(20), to: at(30) },
      ],
    },
  ]
  const spans = pastOf(history, outages, START + 70 * MINUTE_MS)
  assert.deepEqual(
    spans.map(({ phase, from, to }: { phase: string; from: number; to: number }) => [
      ...[phase, (from - START) / MINUTE_MS, (to - START) / MINUTE_MS],
    ]),
    [
      ['waiting', 10, 20],
      ['unreachable', 20, 30],
      ['waiting', 50, 60],
      ['ready', 60, 70],
    ],
  )
})
