import assert from 'node:assert/strict'
import { test } from 'node:test'
import { LineByLine } from '../../src/cli/progress.js'
import { forecastInWords, type Verdict } from '../../src/cli/verdict.js'

const MINUTE_MS = 60_000

function waitingFor(message: string, reason = 'waiting for fiber'): Verdict {
  return {
    ready: false,
    state: 'waiting',
    message,
    reason,
    since: null,
    forMs: null,
    circuit: null,
    forecast: null,
  }
}

/** The lines written to a pipe for a verdict every five seconds, each with its minute. */
function linesOf(minutes: number, isJson: boolean, verdictAt: (minute: number) => Verdict) {
  let elapsedMs = 0
  const lines: [minute: number, line: string][] = []
  const shown = new LineByLine(
    isJson,
    () => elapsedMs,
    text => lines.push([elapsedMs / MINUTE_MS, text]),
  )
  for (; elapsedMs <= minutes * MINUTE_MS; elapsedMs += 5000) shown.show(verdictAt(elapsedMs / MINUTE_MS))
  return lines
}

test('on a pipe, the line is repeated at growing intervals while nothing changes', () => {
  const lines = linesOf(200, false, minute => waitingFor(`waiting for fiber: circuit open for ${minute} min`))
  assert.deepEqual(
    lines.map(([minute]) => minute),
    [0, 1, 3, 7, 15, 31, 61, 91, 121, 151, 181],
  )
  assert.equal(lines[0]?.[1], 'waiting for fiber: circuit open for 0 min\n')
  assert.equal(lines[3]?.[1], 'still waiting after 7 min: waiting for fiber: circuit open for 7 min\n')
})

test('a change is written at once, and the intervals start again', () => {
  const lines = linesOf(12, false, minute => {
    return minute < 8.5 ? waitingFor('waiting', 'a') : waitingFor('unknown', 'b')
  })
  assert.deepEqual(
    lines.map(([minute]) => minute),
    [0, 1, 3, 7, 8.5, 9.5, 11.5],
  )
  assert.equal(lines[4]?.[1], 'unknown\n')
})

test('JSON is written at the same times, one object per line', () => {
  const lines = linesOf(4, true, () => waitingFor('waiting'))
  assert.deepEqual(
    lines.map(([minute, line]) => [minute, JSON.parse(line).message]),
    [
      [0, 'waiting'],
      [1, 'waiting'],
      [3, 'waiting'],
    ],
  )
})

test('a forecast shows its number of outages and its confidence', () => {
  const forecast = { p50Seconds: 240, p90Seconds: 720, samples: 18, confidence: 'fair' }
  const words = 'such outages last 4 min, one in ten more than 12 min'
  assert.equal(forecastInWords(forecast), `${words} (from 18 outages, confidence fair)`)
  assert.equal(forecastInWords({ ...forecast, samples: null, confidence: null }), words)
})
