/** @import { Counts, DecidingReading, Outage, OutageDetail, PastOverride, TimelineEntry } from './shapes.d.ts' */
/** @import { Parts } from './messages-en.js' */
import { drawAxis, drawBars, drawLegend, drawStrip, phaseWords, scaleWords } from './charts.js'
import {
  $,
  bdi,
  bdiEnglish,
  cell,
  element,
  number,
  observed,
  row,
  rowHead,
  running,
  svg,
  time,
  timeWithSeconds,
} from './dom.js'
import { formats, text } from './language.js'
import { known, now } from './live.js'
import { overrideEnd, phaseOfOverride } from './operator.js'
import { spansOf } from './phases.js'

const TIMEOUT_MS = 10_000
const MINUTE_MS = 60_000
const HASH = '#outage-'

/** The details that were read, by the id of the outage; null for an unknown one. */
const details = /** @type {Map<string, OutageDetail | null>} */ (new Map())

/** The outage that is open on the page. The URL names it, so that a link to it can be shared. */
const openId = () => (location.hash.startsWith(HASH) ? location.hash.slice(HASH.length) : undefined)

/**
 * The start of an outage, as a link that opens and closes it in place.
 *
 * @param {Outage} outage
 * @returns {Node}
 */
export const outageLink = ({ id, startedAt }) => {
  if (id === undefined) return time(startedAt)
  const isOpen = id === openId()
  const attributes = { href: isOpen ? '#outages-title' : HASH + id, 'data-outage': id }
  return element('a', { ...attributes, 'aria-expanded': String(isOpen) }, time(startedAt))
}

/**
 * The listed outages, followed by the open one if it is older than these.
 *
 * @param {readonly Outage[]} listed
 * @returns {readonly Outage[]}
 */
export const withOpen = listed => {
  const id = openId()
  const detail = id === undefined ? undefined : details.get(id)
  return detail == null || listed.some(each => each.id === id) ? listed : [...listed, detail]
}

/**
 * Whether the URL names an outage that is neither listed nor known.
 *
 * @param {readonly Outage[]} listed
 */
export const isUnknown = listed => {
  const id = openId()
  return id !== undefined && details.get(id) === null && !listed.some(each => each.id === id)
}

/**
 * An outage with the counts of the status, if it is the current one. The status arrives more often than the list: without
 * this, the state at the top and the list would show different counts of one outage.
 *
 * @template {Outage} Shown
 * @param {Shown} outage
 * @returns {Shown}
 */
export const asInStatus = outage => {
  const current = known.status?.outage
  if (current == null || outage.endedAt !== null || outage.startedAt !== current.startedAt) return outage
  const { refused, operations, wouldRefuse = outage.wouldRefuse, spared = outage.spared } = current
  return {
    ...{ ...outage, refused, operations },
    ...(wouldRefuse !== undefined && { wouldRefuse }),
    ...(spared !== undefined && { spared }),
  }
}

/**
 * The row below an outage that is open.
 *
 * @param {Outage} outage
 * @param {number} columns
 * @returns {Node | undefined}
 */
export const outagePanel = (outage, columns) => {
  const { id } = outage
  if (id === undefined || id !== openId()) return undefined
  const detail = details.get(id)
  const content =
    detail === undefined ? [text.loading] : detail === null ? [text.outageNotKept] : panelOf(detail)
  const label = text.outageLabel(text.phases[outage.cause])
  const panel = element('section', { class: 'panel', id: 'outage-panel', 'aria-label': label }, ...content)
  const made = row(element('td', { colspan: String(columns) }, panel))
  made.className = 'opened'
  made.setAttribute('data-key', `panel-${id}`)
  return made
}

/**
 * Reads the open outage, unless it ended and has been read since.
 *
 * @param {() => void} redraw
 */
export const readOpenOutage = async redraw => {
  const id = openId()
  if (id === undefined) return
  const read = details.get(id)
  // An outage that is no longer stored does not come back.
  if (read === null || (read !== undefined && read.endedAt !== null)) return
  try {
    const signal = AbortSignal.timeout(TIMEOUT_MS)
    const response = await fetch(`outages/${encodeURIComponent(id)}`, { signal, cache: 'no-store' })
    if (response.ok) details.set(id, await response.json())
    else if (response.status === 404 || response.status === 400) details.set(id, null)
  } catch {
    // The contact line shows the failure, and the next round tries again.
  }
  redraw()
  // A link to an outage scrolls to it, once.
  if (isLinked) linkOf(id)?.scrollIntoView({ block: 'center' })
  isLinked = false
}

/** @param {string} id */
const linkOf = id => document.querySelector(`a[data-outage="${CSS.escape(id)}"]`)

/** Whether the page was opened by a link to an outage that has not been shown yet. */
let isLinked = openId() !== undefined

/**
 * Opens and closes outages by their link, by the URL, and by Escape.
 *
 * @param {() => void} redraw
 */
export const startOutages = redraw => {
  addEventListener('hashchange', () => {
    redraw()
    readOpenOutage(redraw)
  })
  document.addEventListener('click', event => {
    const link = event.target instanceof Element ? event.target.closest('a[data-outage]') : null
    if (link === null || link.getAttribute('data-outage') !== openId()) return
    event.preventDefault()
    close(redraw)
  })
  document.addEventListener('keydown', event => {
    const isInside =
      event.target instanceof Element && event.target.closest('.opened, [data-outage]') !== null
    if (event.key !== 'Escape' || !isInside) return
    const id = openId()
    close(redraw)
    const link = linkOf(id ?? '')
    if (link instanceof HTMLElement) link.focus()
  })
}

/** @param {() => void} redraw */
const close = redraw => {
  history.pushState(null, '', location.pathname + location.search)
  redraw()
}

/**
 * @param {OutageDetail} detail
 * @returns {Parts}
 */
const panelOf = detail => {
  const parts = [
    factsOf(asInStatus(detail)),
    timelineOf(detail),
    chartOf(detail),
    clientsOf(detail),
    runsOf(detail),
    letInOf(detail),
  ]
  const address = `outages/${detail.id ?? ''}?format=`
  const json = element('a', { href: `${address}json` }, 'JSON')
  const csv = element('a', { href: `${address}csv` }, 'CSV')
  return [...parts.flat(), element('p', { class: 'small quiet' }, ...text.dataAs(json, csv))]
}

/** @type {(heading: string, ...content: readonly (string | Node)[]) => Node} */
const block = (heading, ...content) =>
  element('div', { class: 'plot' }, element('h3', {}, heading), ...content)

/**
 * A table that scrolls in its own region.
 *
 * @type {(label: string, heads: readonly (readonly [words: string, className?: string])[], rows: readonly Node[]) => Node}
 */
const table = (label, heads, rows) =>
  element(
    'section',
    { class: 'scroll', 'aria-label': label },
    element(
      'table',
      {},
      element(
        'thead',
        {},
        row(
          ...heads.map(([words, className = '']) =>
            element('th', { scope: 'col', ...(className !== '' && { class: className }) }, words),
          ),
        ),
      ),
      element('tbody', {}, ...rows),
    ),
  )

/** @param {OutageDetail} detail */
const factsOf = ({ startedAt, endedAt, seconds, refused, wouldRefuse = 0, spared, operations }) => {
  const lasted = endedAt === null ? running(startedAt, 'for') : formats.duration(seconds * 1000)
  const span = text.outageSpan(
    timeWithSeconds(startedAt),
    endedAt === null ? undefined : timeWithSeconds(endedAt),
    lasted,
  )
  const counts = text.outageCounts(refused, wouldRefuse, operations)
  const sparing = spared === undefined || refused === 0 ? [] : [' ', text.outageSpared(spared, refused)]
  return element('p', {}, ...span, ' ', counts, ...sparing)
}

/** @param {DecidingReading | null | undefined} reading */
const readingParts = reading => {
  if (reading == null) return []
  const fields = reading.missing ?? []
  const why =
    reading.problem !== undefined
      ? [': ', bdiEnglish(reading.problem)]
      : fields.length > 0
        ? [' (', element('code', {}, bdi(fields.join(', '))), ')']
        : []
  return [text.kinds[reading.kind], ...why, '; ', text.sources[reading.source]]
}

/**
 * The overrides that were in force during the outage.
 *
 * @param {OutageDetail} detail
 * @returns {readonly PastOverride[]}
 */
const overridesIn = ({ overrides, startedAt, endedAt }) => {
  if (overrides !== undefined) return overrides
  const end = endedAt ?? new Date(now()).toISOString()
  /** @type {readonly PastOverride[]} */
  const all = [
    ...(known.override?.override ? [known.override.override] : []),
    ...(known.override?.history ?? []),
  ]
  return all.filter(each => each.since < end && (each.endedAt ?? each.until) > startedAt)
}

/**
 * The changes of an outage, and among them the starts and ends of the overrides.
 *
 * @param {readonly TimelineEntry[]} entries
 * @param {readonly PastOverride[]} overrides
 * @returns {readonly TimelineEntry[]}
 */
const withOverrides = (entries, overrides) => {
  const first = entries[0]?.from ?? ''
  const bounds = overrides.flatMap(({ since, until, endedAt }) => [since, endedAt ?? until])
  const times = [...entries.map(({ from }) => from), ...bounds.filter(at => at > first)]
  return [...new Set(times)].sort().flatMap(from => {
    const entry = entries.findLast(each => each.from <= from)
    const override = overrides.find(each => each.since <= from && from < (each.endedAt ?? each.until)) ?? null
    return entry === undefined ? [] : [{ ...entry, from, override }]
  })
}

/** @param {OutageDetail} detail */
const timelineOf = detail => {
  const { changes, omittedChanges = 0, startedAt, endedAt } = detail
  const entries = changes.map(({ at, ...rest }) => ({ ...rest, from: at }))
  const end = endedAt === null ? now() : Date.parse(endedAt)
  const spans = spansOf(entries, end)
  const drawn = spansOf(withOverrides(entries, overridesIn(detail)), end)
  const extent = { start: Date.parse(startedAt), end, width: widthOf() }
  const strip = svg('svg', { role: 'img', height: 40, preserveAspectRatio: 'none' })
  drawStrip(strip, drawn, extent)
  const legend = element('ul', { class: 'legend' })
  drawLegend(legend, drawn, extent)
  const axis = element('div', { class: 'axis', 'aria-hidden': 'true' })
  drawAxis(axis, extent)
  const rows = [
    ...changes.map((change, index) => {
      const span = spans[index]
      const words = span === undefined ? '' : phaseWords(span)
      return { at: change.at, cells: [cell(words), cell(...readingParts(change.reading))] }
    }),
    ...overridesIn(detail).map(each => ({
      at: each.since,
      cells: [
        cell(text.phases[phaseOfOverride(each)]),
        cell(...text.overrideIn(bdi(each.reason), bdi(each.by), overrideEnd(each))),
      ],
    })),
  ].sort((a, b) => Date.parse(a.at) - Date.parse(b.at))
  return block(
    text.whatHappened,
    legend,
    element('div', { class: 'area' }, strip),
    axis,
    table(
      text.whatHappened,
      [[text.time], [text.state], [text.decidedBy]],
      rows.map(({ at, cells }) => row(rowHead(timeWithSeconds(at)), ...cells)),
    ),
    ...(omittedChanges === 0
      ? []
      : [element('p', { class: 'small quiet' }, text.omittedChanges(omittedChanges))]),
  )
}

/** The approximate width of a chart in the panel. The chart is stretched to the real width. */
const widthOf = () => Math.max(240, $('outages').clientWidth - 48)

/** @param {OutageDetail} detail */
const chartOf = ({ minutes: { spanMinutes, counts, unknown }, startedAt, endedAt }) => {
  const minutes = counts.map(({ minute, ...each }) => ({ from: Date.parse(minute), ...each }))
  if (minutes.length === 0) return []
  const spanMs = spanMinutes * MINUTE_MS
  const start = Math.min(Date.parse(startedAt), ...minutes.map(({ from }) => from))
  const last = minutes.at(-1)?.from ?? start
  const end = Math.max(endedAt === null ? now() : Date.parse(endedAt), last + spanMs)
  const extent = { start, end, width: widthOf(), spanMs }
  const chart = svg('svg', { role: 'img', height: 96, preserveAspectRatio: 'none' })
  const top = drawBars(chart, minutes, extent)
  const isObserved = minutes.every(({ refused }) => refused === 0)
  const heading = text.refusedPer(spanMinutes, isObserved)
  const sum = minutes.reduce((all, { refused, wouldRefuse }) => all + refused + wouldRefuse, 0)
  chart.setAttribute('aria-label', text.sumLabel(heading, sum))
  const axis = element('div', { class: 'axis', 'aria-hidden': 'true' })
  drawAxis(axis, extent)
  const scale = element('span', { class: 'scale', 'aria-hidden': 'true' }, scaleWords(top))
  const rest = unknown === undefined ? 0 : unknown.refused + unknown.wouldRefuse
  const note = rest === 0 ? [] : [element('p', { class: 'small quiet' }, text.atUnknownTime(rest))]
  return [block(heading, element('div', { class: 'area' }, scale, chart), axis, ...note)]
}

/** @type {(words: string, counts: Counts | undefined, cells: number) => readonly Node[]} */
const otherRow = (words, { refused, wouldRefuse } = { refused: 0, wouldRefuse: 0 }, cells) => {
  if (refused + wouldRefuse === 0) return []
  const empty = Array.from({ length: cells }, () => cell())
  return [row(rowHead(words), number(refused), observed(wouldRefuse), ...empty)]
}

/** @param {OutageDetail} detail */
const clientsOf = ({ clients, otherClients }) => {
  const rows = [
    ...clients.map(client =>
      row(
        clientHead(client),
        number(client.refused),
        observed(client.wouldRefuse),
        cell(timeWithSeconds(client.first)),
        cell(timeWithSeconds(client.last)),
      ),
    ),
    ...otherRow(text.others, otherClients, 2),
  ]
  if (rows.length === 0) return []
  const heads = /** @type {const} */ ([
    [text.client],
    [text.refused, 'number'],
    [text.wouldRefuse, 'number observed'],
    [text.first],
    [text.last],
  ])
  return [block(text.clientsIn, table(text.clientsIn, heads, rows))]
}

/** @param {OutageDetail} detail */
const runsOf = ({ runs, otherRuns, withoutRun }) => {
  if (runs.length === 0) return []
  const rows = [
    ...runs.map(({ run, refused, wouldRefuse }) =>
      row(rowHead(bdi(run)), number(refused), observed(wouldRefuse)),
    ),
    ...otherRow(text.otherRuns, otherRuns, 0),
    ...otherRow(text.withoutRun, withoutRun, 0),
  ]
  const heads = /** @type {const} */ ([
    [text.run],
    [text.refused, 'number'],
    [text.wouldRefuse, 'number observed'],
  ])
  return [block(text.runsIn, table(text.runsIn, heads, rows))]
}

/** @param {OutageDetail} detail */
const letInOf = ({ letIn, letInTotal }) => {
  if (letIn.length === 0) return []
  const rows = letIn.map(({ at, run, operation, ...client }) =>
    row(
      rowHead(timeWithSeconds(at)),
      cell(clientWords(client)),
      cell(run === null ? '–' : bdi(run)),
      cell(bdi(operation)),
    ),
  )
  const heads = /** @type {const} */ ([[text.time], [text.client], [text.run], [text.operation]])
  const more = letInTotal > letIn.length ? [text.moreLetIn(letInTotal - letIn.length)] : []
  const note = element('p', { class: 'small quiet' }, text.letInNote, ' ', ...more)
  return [block(text.letIn, note, table(text.letIn, heads, rows))]
}

/**
 * A client's name and address.
 *
 * @param {{ userAgent: string | null, address: string }} client
 */
const clientWords = ({ userAgent, address }) => {
  const agent = userAgent === null ? text.otherAgents : userAgent === '' ? text.noAgent : bdi(userAgent)
  return element('span', {}, agent, element('span', { class: 'address quiet' }, bdi(address)))
}

/**
 * The head of a client's row.
 *
 * @param {{ userAgent: string | null, address: string }} client
 */
export const clientHead = client => {
  const head = rowHead(clientWords(client))
  head.className = 'agent'
  return head
}
