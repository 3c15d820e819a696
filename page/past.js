/** @import { PhaseSpan } from './phases.js' */
/** @import { Extent, Minute } from './charts.js' */
import { drawAxis, drawBars, drawLegend, drawStrip, phaseWords, scaleWords } from './charts.js'
import { $, cell, number, observed, put, row, rowHead, running, show, time, timeWithSeconds } from './dom.js'
import { clock } from './format.js'
import { text } from './messages.js'
import { pastOf } from './phases.js'
import { known, now } from './state.js'

const MINUTE_MS = 60_000
const MAX_ROWS = 50
const LONGEST_MINUTES = 360
const WINDOWS = [5, 15, 30, 60, 120, 180, LONGEST_MINUTES]

/**
 * The window that the page shows of the past, and what was refused in it. Undefined while that is not known.
 *
 * @returns {{ minutes: number, start: number, end: number, countedFrom: number, spans: readonly PhaseSpan[], refused: number, wouldRefuse: number, bars: readonly (Minute & { iso: string })[] } | undefined}
 */
export const recentPast = () => {
  const { history } = known
  if (history === null) return undefined
  const end = now()
  const spans = pastOf(history, known.outages?.outages ?? [], end).filter(
    ({ to }) => to > end - LONGEST_MINUTES * MINUTE_MS,
  )
  const knownFrom = Math.min(Date.parse(history.from), ...spans.map(({ from }) => from))
  const minutes = WINDOWS.find(each => each * MINUTE_MS >= end - knownFrom) ?? LONGEST_MINUTES
  const start = end - minutes * MINUTE_MS
  const bars = history.refused
    .map(each => ({
      ...{ iso: each.minute, from: Date.parse(each.minute) },
      ...{ refused: each.count, wouldRefuse: each.wouldRefuse ?? 0 },
    }))
    .filter(({ from }) => from + MINUTE_MS > start)
  const countedFrom = Math.max(Date.parse(history.from), start)
  const refused = bars.reduce((sum, each) => sum + each.refused, 0)
  const wouldRefuse = bars.reduce((sum, each) => sum + each.wouldRefuse, 0)
  return { minutes, start, end, countedFrom, spans, refused, wouldRefuse, bars }
}

/** Draws the last hours: the states, and the refused requests per minute. */
export const drawPast = () => {
  const past = recentPast()
  if (past === undefined || known.status === null) return
  show('past', true)
  const extent = { start: past.start, end: past.end, width: Math.max(200, $('states').clientWidth) }
  put('past-title', text.lastMinutes(past.minutes))
  drawStrip($('states'), past.spans, extent)
  drawLegend($('legend'), past.spans, extent)
  drawStates(past.spans)
  drawRefused(past, extent)
  for (const id of ['states-axis', 'refused-axis']) drawAxis($(id), extent)
}

/** @param {readonly PhaseSpan[]} spans */
const drawStates = spans => {
  const newest = [...spans].reverse().slice(0, MAX_ROWS)
  put(
    'states-rows',
    ...newest.map((span, index) =>
      row(
        rowHead(timeWithSeconds(span.iso)),
        cell(phaseWords(span)),
        index === 0 ? cell(running(span.iso, 'for'), text.soFar) : cell(text.duration(span.to - span.from)),
      ),
    ),
  )
}

/**
 * @param {NonNullable<ReturnType<typeof recentPast>>} past
 * @param {Extent} extent
 */
const drawRefused = ({ bars, refused, wouldRefuse, countedFrom }, extent) => {
  // In mode `observe` nothing is refused, and the chart shows what would have been.
  const isObserved = refused === 0 && (wouldRefuse > 0 || known.status?.mode === 'observe')
  const title = isObserved ? text.wouldRefuseTitle : text.refusedTitle
  put('refused-title', title)
  put('refused-scale', scaleWords(drawBars($('refused'), bars, { ...extent, spanMs: MINUTE_MS })))
  /** @param {{ refused: number, wouldRefuse: number }} bar */
  const shownOf = bar => (isObserved ? bar.wouldRefuse : bar.refused)
  const highest = Math.max(0, ...bars.map(shownOf))
  const worst = bars.find(bar => shownOf(bar) === highest)
  const sum = shownOf({ refused, wouldRefuse })
  const also = isObserved ? 0 : wouldRefuse
  const words =
    worst === undefined
      ? text.none
      : text.refusedSum(sum, highest, clock(worst.from), clock(countedFrom), also)
  put('refused-sum', words)
  $('refused').setAttribute(
    'aria-label',
    text.chartLabel(title, clock(extent.start), clock(extent.end), words),
  )
  put(
    'refused-rows',
    ...[...bars]
      .reverse()
      .map(bar => row(rowHead(time(bar.iso)), number(bar.refused), observed(bar.wouldRefuse))),
  )
}
