/** @import { Phase } from './shapes.d.ts' */
/** @import { PhaseSpan } from './phases.js' */
import { element, fill, svg } from './dom.js'
import { formats, text } from './language.js'
import { lastedBy, outagesIn, PHASES } from './phases.js'

const { clock, count, dayAndClock } = formats

const MINUTE_MS = 60_000
const STRIP_HEIGHT = 40
const BARS_HEIGHT = 96
/** The distances between two labels of an axis, in minutes. */
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 2880, 10_080, 43_200, 129_600]
const DAY_MS = 86_400_000
const LABEL_WIDTH = 84

/** The period that a chart shows, and the width of the chart. @typedef {{ start: number, end: number, width: number }} Extent */
/** @typedef {{ from: number, refused: number, wouldRefuse: number }} Minute */

/** @type {(extent: Extent, at: number) => number} */
const xOf = ({ start, end, width }, at) =>
  ((Math.max(start, Math.min(end, at)) - start) / Math.max(1, end - start)) * width

/**
 * Draws the phases of a period as one strip. All charts are drawn from left to right; style.css mirrors them for a
 * language that is written from right to left.
 *
 * @param {Element} chart an `svg`
 * @param {readonly PhaseSpan[]} spans
 * @param {Extent} extent
 */
export const drawStrip = (chart, spans, extent) => {
  const { start, end, width } = extent
  chart.setAttribute('viewBox', `0 0 ${width} ${STRIP_HEIGHT}`)
  const drawn = spans.filter(span => span.to > start && span.from < end)
  // Even a very short outage must be visible, so it is drawn above its neighbours.
  const inOrder = [...drawn].sort((a, b) => Number(a.phase !== 'ready') - Number(b.phase !== 'ready'))
  fill(
    chart,
    svg('rect', { class: 'ground', width, height: STRIP_HEIGHT }),
    ...inOrder.map(span => {
      const [from, to] = [xOf(extent, span.from), xOf(extent, span.to)]
      const wide = Math.max(span.phase === 'ready' ? 0 : 3, to - from)
      const tip = svg('title', {}, text.spanTip(phaseWords(span), clock(span.from), span.to - span.from))
      const place = { x: Math.min(from, width - wide), width: wide, height: STRIP_HEIGHT }
      return svg('rect', { class: `is-${span.phase}`, ...place }, tip)
    }),
  )
  const words = text.statesLabel(clock(start), clock(end), lastedBy(drawn, start, end), outagesIn(drawn))
  chart.setAttribute('aria-label', words)
}

/**
 * A phase in words. If an override hides the phase according to the readings, both.
 *
 * @param {Pick<PhaseSpan, 'phase' | 'readings'>} span
 */
export const phaseWords = ({ phase, readings }) =>
  phase === readings ? text.phases[phase] : text.overReadings(text.phases[phase], text.phases[readings])

/**
 * Draws the legend of a strip: only the phases that occur in it.
 *
 * @param {Element} list
 * @param {readonly PhaseSpan[]} spans
 * @param {Extent} extent
 */
export const drawLegend = (list, spans, { start, end }) => {
  const lasted = lastedBy(spans, start, end)
  const first = Math.min(end, ...spans.map(({ from }) => from))
  /** @type {(Phase | 'unknown')[]} */
  const shown = PHASES.filter(phase => lasted.has(phase))
  if (first > start) shown.push('unknown')
  fill(
    list,
    ...shown.map(phase => {
      const swatch = svg('rect', {
        class: phase === 'unknown' ? 'ground' : `is-${phase}`,
        width: 22,
        height: 12,
      })
      return element(
        'li',
        {},
        svg('svg', { 'aria-hidden': 'true', focusable: 'false' }, swatch),
        element('span', {}, text.legend[phase]),
      )
    }),
  )
}

/**
 * Draws the refused requests of each minute, and on top of them those that would have been refused.
 *
 * @param {Element} chart an `svg`
 * @param {readonly Minute[]} minutes
 * @param {Extent & { spanMs: number }} extent
 * @returns {number} the number at the top of the scale; 0 without any bar
 */
export const drawBars = (chart, minutes, { spanMs, ...extent }) => {
  const { start, end, width } = extent
  chart.setAttribute('viewBox', `0 0 ${width} ${BARS_HEIGHT}`)
  const highest = Math.max(0, ...minutes.map(({ refused, wouldRefuse }) => refused + wouldRefuse))
  const power = 10 ** Math.floor(Math.log10(Math.max(1, highest)))
  const top = highest === 0 ? 1 : power * ([1, 2, 5, 10].find(each => each * power >= highest) ?? 10)
  /** @param {number} value */
  const y = value => BARS_HEIGHT - 1 - (value / top) * (BARS_HEIGHT - 12)
  const gap = (spanMs / Math.max(1, end - start)) * width > 5 ? 1.5 : 0
  fill(
    chart,
    ...[0, top / 2, top].map(value =>
      svg('line', { class: 'grid', x1: 0, x2: width, y1: y(value), y2: y(value) }),
    ),
    ...minutes.flatMap(({ from, refused, wouldRefuse }) => {
      const [left, right] = [xOf(extent, from), xOf(extent, from + spanMs)]
      const place = { x: left, width: Math.max(1, right - left - gap) }
      /** @type {(className: string, below: number, value: number) => readonly Element[]} */
      const bar = (className, below, value) => {
        if (value === 0) return []
        const height = Math.max(1.5, y(below) - y(below + value))
        const tip = svg('title', {}, text.barTip(clock(from), refused, wouldRefuse))
        return [svg('rect', { class: className, ...place, y: y(below) - height, height }, tip)]
      }
      return [...bar('bar', 0, refused), ...bar('would-bar', refused, wouldRefuse)]
    }),
  )
  return highest === 0 ? 0 : top
}

/**
 * Writes the times below a chart.
 *
 * @param {Element} axis
 * @param {Extent} extent
 */
export const drawAxis = (axis, { start, end, width }) => {
  const wanted = (end - start) / (width / LABEL_WIDTH)
  const step = (STEPS.find(each => each * MINUTE_MS >= wanted) ?? 525_600) * MINUTE_MS
  const zone = new Date(start).getTimezoneOffset() * MINUTE_MS
  const labels = []
  for (let at = Math.ceil((start - zone) / step) * step + zone; at < end; at += step) {
    const part = (at - start) / (end - start)
    // Otherwise the label would be cut off at the edge.
    if (part * width < 28 || (1 - part) * width < 28) continue
    labels.push(label(end - start > DAY_MS ? dayAndClock(at) : clock(at), part))
  }
  axis.replaceChildren(...labels)
}

/** @type {(words: string, part: number) => Node} */
const label = (words, part) => {
  const made = element('span', {}, words)
  // The content security policy forbids style attributes, but not the style object.
  made.style.insetInlineStart = `${part * 100}%`
  return made
}

/** @param {number} value */
export const scaleWords = value => (value === 0 ? '' : count(value))
