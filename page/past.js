/** @import { RefusedMinute } from './shapes.d.ts' */
/** @import { PhaseSpan } from './phases.js' */
/** @import { Extent } from './charts.js' */
import { drawAxis, drawBars, drawLegend, drawStrip, phaseWords, scaleWords } from './charts.js'
import { $, cell, number, observed, put, row, rowHead, running, show, time } from './dom.js'
import { clock } from './format.js'
import { text } from './messages.js'
import { pastOf } from './phases.js'
import { known, now } from './state.js'

const MINUTE_MS = 60_000
const MAX_ROWS = 50
const LONGEST_MINUTES = 360
const WINDOWS = [5, 15, 30, 60, 120, 180, LONGEST_MINUTES]

/** Draws the last hours: the states, and the refused requests per minute. */
export const drawPast = () => {
  const { history, status } = known
  if (history === null || status === null) return
  show('past', true)
  const end = now()
  const spans = pastOf(history, known.outages?.outages ?? [], end).filter(
    ({ to }) => to > end - LONGEST_MINUTES * MINUTE_MS,
  )
  const knownFrom = Math.min(Date.parse(history.from), ...spans.map(({ from }) => from))
  const minutes = WINDOWS.find(each => each * MINUTE_MS >= end - knownFrom) ?? LONGEST_MINUTES
  const extent = { start: end - minutes * MINUTE_MS, end, width: Math.max(200, $('states').clientWidth) }
  put('past-title', text.lastMinutes(minutes))
  drawStrip($('states'), spans, extent)
  drawLegend($('legend'), spans, extent)
  drawStates(spans)
  drawRefused(history.refused, extent, Math.max(knownFrom, extent.start))
  for (const id of ['states-axis', 'refused-axis']) drawAxis($(id), extent)
}

/** @param {readonly PhaseSpan[]} spans */
const drawStates = spans => {
  const newest = [...spans].reverse().slice(0, MAX_ROWS)
  put(
    'states-rows',
    ...newest.map((span, index) =>
      row(
        rowHead(time(span.iso)),
        cell(phaseWords(span)),
        index === 0 ? cell(running(span.iso, 'for'), text.soFar) : cell(text.duration(span.to - span.from)),
      ),
    ),
  )
}

/**
 * @param {readonly RefusedMinute[]} refused
 * @param {Extent} extent
 * @param {number} countedFrom
 */
const drawRefused = (refused, extent, countedFrom) => {
  const { start, end } = extent
  const minutes = refused
    .map(each => ({
      ...{ iso: each.minute, from: Date.parse(each.minute) },
      ...{ refused: each.count, wouldRefuse: each.wouldRefuse ?? 0 },
    }))
    .filter(({ from }) => from + MINUTE_MS > start)
  const sums = { refused: 0, wouldRefuse: 0 }
  for (const minute of minutes) {
    sums.refused += minute.refused
    sums.wouldRefuse += minute.wouldRefuse
  }
  // In mode `observe` nothing is refused, and the chart shows what would have been.
  const isObserved = sums.refused === 0 && (sums.wouldRefuse > 0 || known.status?.mode === 'observe')
  const title = isObserved ? text.wouldRefuseTitle : text.refusedTitle
  put('refused-title', title)
  put('refused-scale', scaleWords(drawBars($('refused'), minutes, { ...extent, spanMs: MINUTE_MS })))
  /** @param {{ refused: number, wouldRefuse: number }} minute */
  const shownOf = minute => (isObserved ? minute.wouldRefuse : minute.refused)
  const highest = Math.max(0, ...minutes.map(shownOf))
  const worst = minutes.find(minute => shownOf(minute) === highest)
  const words =
    worst === undefined
      ? text.none
      : text.refusedSum(
          shownOf(sums),
          highest,
          clock(worst.from),
          clock(countedFrom),
          isObserved ? 0 : sums.wouldRefuse,
        )
  put('refused-sum', words)
  $('refused').setAttribute('aria-label', text.chartLabel(title, clock(start), clock(end), words))
  put(
    'refused-rows',
    ...[...minutes]
      .reverse()
      .map(({ iso, refused: value, wouldRefuse }) =>
        row(rowHead(time(iso)), number(value), observed(wouldRefuse)),
      ),
  )
}
