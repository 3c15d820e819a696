/** @import { Cause, CircuitState, History } from './shapes.d.ts' */
import { $, cell, number, put, row, rowHead, running, show, svg, time } from './dom.js'
import { clock, count } from './format.js'
import { text } from './messages.js'
import { known, now } from './state.js'

const MINUTE_MS = 60_000
const MAX_ROWS = 50
const LONGEST_MINUTES = 360
const WINDOWS = [5, 15, 30, 60, 120, 180, LONGEST_MINUTES]
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 180]

/** @typedef {{ state: CircuitState, cause: Cause | null, from: number, to: number, iso: string }} Span */
/** @typedef {{ start: number, end: number, width: number, x: (at: number) => number }} Window */

/**
 * The states of the circuit, each with its end.
 *
 * @param {History} history
 * @param {number} end
 * @returns {readonly Span[]}
 */
const spansOf = ({ states, from: knownFrom }, end) => [
  // What was before the start stands in the history, if it is kept.
  ...earlierOutages(Date.parse(knownFrom)),
  ...states.map(({ state, cause, from: iso }, index) => {
    const next = states[index + 1]
    return { state, cause, from: Date.parse(iso), to: next === undefined ? end : Date.parse(next.from), iso }
  }),
]

/**
 * @param {number} before
 * @returns {readonly Span[]}
 */
const earlierOutages = before =>
  (known.outages?.outages ?? [])
    .filter(({ startedAt }) => Date.parse(startedAt) < before)
    .map(({ startedAt, endedAt, cause }) => {
      const to = endedAt === null ? before : Math.min(before, Date.parse(endedAt))
      return { state: /** @type {const} */ ('open'), cause, from: Date.parse(startedAt), to, iso: startedAt }
    })
    .reverse()

/** @param {Cause | null} cause */
export const causeWords = cause =>
  cause === 'waiting' ? text.waiting : cause === 'starting' ? text.startingShort : text.unreachableShort

/** @param {Span} span */
const stateWords = ({ state, cause }) =>
  state === 'closed' ? text.ready : state === 'half-open' ? text.recovering : causeWords(cause)

/** Draws the last hours: the states, and the refused requests per minute. */
export const drawPast = () => {
  const { history, status } = known
  if (history === null || status === null) return
  show('past', true)
  const end = now()
  const spans = spansOf(history, end).filter(({ to }) => to > end - LONGEST_MINUTES * MINUTE_MS)
  const knownFrom = Math.min(Date.parse(history.from), ...spans.map(({ from }) => from))
  const minutes = WINDOWS.find(each => each * MINUTE_MS >= end - knownFrom) ?? LONGEST_MINUTES
  const start = end - minutes * MINUTE_MS
  put('past-title', text.lastMinutes(minutes))
  const isObserving = status.mode === 'observe'
  drawLegend(isObserving)
  const width = Math.max(200, $('states').clientWidth)
  /** @param {number} at */
  const x = at => ((Math.max(start, Math.min(end, at)) - start) / (end - start)) * width
  const window = { start, end, width, x }
  drawStates(spans, window)
  drawRefused(history.refused, window, isObserving)
  for (const id of ['states-axis', 'refused-axis']) drawAxis(id, window)
}

/** @param {boolean} isObserving */
const drawLegend = isObserving => {
  const items = [
    ['is-closed', text.legendReady],
    ['is-open', isObserving ? text.legendNotReady : text.legendRefused],
    ['is-half-open', text.legendRecovering],
    ['ground', text.legendUnknown],
  ]
  put(
    'legend',
    ...items.map(([className = '', words = '']) => {
      const item = document.createElement('li')
      const swatch = svg('svg', { 'aria-hidden': 'true', focusable: 'false' })
      swatch.append(svg('rect', { class: className, width: 22, height: 12 }))
      item.append(swatch, words)
      return item
    }),
  )
}

/**
 * @param {readonly Span[]} spans
 * @param {Window} window
 */
const drawStates = (spans, { start, end, width, x }) => {
  const height = 40
  const chart = $('states')
  chart.setAttribute('viewBox', `0 0 ${width} ${height}`)
  // Before the first reading the circuit is open as well, and that is no outage.
  const drawn = spans.filter(span => span.cause !== 'starting' && span.to > start)
  // However short, an outage is visible: it is drawn above its neighbours.
  const inOrder = [...drawn].sort((a, b) => Number(a.state !== 'closed') - Number(b.state !== 'closed'))
  chart.replaceChildren(
    svg('rect', { class: 'ground', width, height }),
    ...inOrder.map(span => {
      const wide = Math.max(span.state === 'closed' ? 0 : 3, x(span.to) - x(span.from))
      const tip = svg('title', {}, text.spanTip(stateWords(span), clock(span.from), span.to - span.from))
      const left = Math.min(x(span.from), width - wide)
      return svg('rect', { class: `is-${span.state}`, x: left, width: wide, height }, tip)
    }),
  )
  /** @param {CircuitState} state */
  const lasted = state =>
    drawn
      .filter(span => span.state === state)
      .reduce((sum, span) => sum + span.to - Math.max(start, span.from), 0)
  // An outage that goes on for another cause is the same one.
  const opened = drawn.filter(
    (span, index) => span.state === 'open' && drawn[index - 1]?.state !== 'open',
  ).length
  const parts = [
    text.readyFor(lasted('closed')),
    opened === 0 ? text.noOutage : text.notReadyFor(lasted('open'), opened),
    ...(lasted('half-open') > 0 ? [text.recoveringFor(lasted('half-open'))] : []),
  ]
  chart.setAttribute('aria-label', text.statesLabel(clock(start), clock(end), parts))
  put(
    'states-rows',
    ...[...spans]
      .reverse()
      .slice(0, MAX_ROWS)
      .map((span, index) =>
        row(
          rowHead(time(span.iso)),
          cell(stateWords(span)),
          index === 0 ? cell(running(span.iso, 'for'), text.soFar) : cell(text.duration(span.to - span.from)),
        ),
      ),
  )
}

/**
 * @param {History['refused']} refused
 * @param {Window} window
 * @param {boolean} isObserving
 */
const drawRefused = (refused, { start, end, width, x }, isObserving) => {
  const height = 96
  const chart = $('refused')
  chart.setAttribute('viewBox', `0 0 ${width} ${height}`)
  const bars = refused
    .map(({ minute, count: value }) => ({ iso: minute, from: Date.parse(minute), value }))
    .filter(({ from }) => from + MINUTE_MS > start)
  const highest = bars.reduce((most, { value }) => Math.max(most, value), 0)
  const sum = bars.reduce((all, { value }) => all + value, 0)
  const power = 10 ** Math.floor(Math.log10(Math.max(1, highest)))
  const top = highest === 0 ? 1 : power * ([1, 2, 5, 10].find(each => each * power >= highest) ?? 10)
  /** @param {number} value */
  const y = value => height - 1 - (value / top) * (height - 12)
  const gap = (MINUTE_MS / (end - start)) * width > 5 ? 1.5 : 0
  chart.replaceChildren(
    ...[0, top / 2, top].map(value =>
      svg('line', { class: 'grid', x1: 0, x2: width, y1: y(value), y2: y(value) }),
    ),
    ...bars.map(({ from, value }) => {
      const high = Math.max(1.5, y(0) - y(value))
      const wide = Math.max(1, x(from + MINUTE_MS) - x(from) - gap)
      const tip = svg('title', {}, text.barTip(clock(from), value))
      return svg('rect', { class: 'bar', x: x(from), y: y(0) - high, width: wide, height: high }, tip)
    }),
  )
  put('refused-scale', highest === 0 ? '' : count(top))
  const worst = bars.find(({ value }) => value === highest)
  const words =
    worst === undefined
      ? isObserving
        ? text.noneObserving
        : text.none
      : text.refusedSum(sum, highest, clock(worst.from))
  put('refused-sum', words)
  chart.setAttribute('aria-label', text.refusedLabel(clock(start), clock(end), words))
  put('refused-rows', ...[...bars].reverse().map(({ iso, value }) => row(rowHead(time(iso)), number(value))))
}

/**
 * @param {string} id
 * @param {Window} window
 */
const drawAxis = (id, { start, end, width }) => {
  const step = (STEPS.find(each => each * MINUTE_MS >= (end - start) / (width / 84)) ?? 180) * MINUTE_MS
  const zone = new Date(start).getTimezoneOffset() * MINUTE_MS
  const labels = []
  for (let at = Math.ceil((start - zone) / step) * step + zone; at < end; at += step) {
    const part = (at - start) / (end - start)
    // Half a label would hang over the edge.
    if (part * width < 28 || (1 - part) * width < 28) continue
    const label = document.createElement('span')
    label.append(clock(at))
    label.style.insetInlineStart = `${part * 100}%`
    labels.push(label)
  }
  put(id, ...labels)
}
