import assert from 'node:assert/strict'
import { test } from 'node:test'
import { cpuRatio, figuresOf, rateRatio } from '../../bench/figures.js'
import type { Stretch } from '../../bench/load.js'

test('a ratio compares measurements of the same round', () => {
  const ours = [stretch(64, 32), stretch(64, 64), stretch(64, 16)]
  const theirs = [stretch(64, 8), stretch(64, 32), stretch(64, 16)]
  assert.deepEqual(cpuRatio(ours, theirs), { median: 2, least: 1, most: 4 })
})

test('a ratio of processor time is per request', () => {
  assert.equal(cpuRatio([stretch(50, 10)], [stretch(100, 10)]).median, 2)
})

test('a ratio of rates is ours divided by theirs', () => {
  assert.equal(rateRatio([stretch(50, 10)], [stretch(100, 10)]).median, 0.5)
})

test('processor time is summed over all rounds, and rates are medians', () => {
  const figures = figuresOf([stretch(100, 10), stretch(200, 20), stretch(900, 90)])
  assert.equal(figures.cpuMicroseconds, 100)
  assert.equal(figures.requestsPerSecond, 2000)
  assert.equal(figures.busy, 0.4)
})

test('processor time that cannot be read gives no figure', () => {
  const figures = figuresOf([stretch(100, undefined)])
  assert.ok(Number.isNaN(figures.cpuMicroseconds))
  assert.equal(figures.requestsPerSecond, 1000)
})

function stretch(requests: number, cpuMs: number | undefined): Stretch {
  return { requests, sent: requests, elapsedMs: 100, cpuMs, p50Ms: 1, p99Ms: 2 }
}
