/** @import { Client, Outage, Status } from './shapes.d.ts' */
/** @import { Extent, Minute } from './charts.js' */
/** @import { Parts } from './messages-en.js' */
/** @import { PhaseSpan } from './phases.js' */
import { drawAxis, drawBars, drawLegend, drawStrip, phaseWords, scaleWords } from './charts.js'
import {
  $,
  bdi,
  bdiEnglish,
  cell,
  element,
  number,
  observed,
  put,
  row,
  rowHead,
  running,
  show,
  strong,
  time,
  timeWithSeconds,
} from './dom.js'
import { decidingFields } from './hero.js'
import { formats, text } from './language.js'
import { known, now } from './live.js'
import { asInStatus, clientHead, isUnknown, outageLink, outagePanel, withOpen } from './outage.js'
import { causesOf, pastOf } from './phases.js'

const { clock, count, duration, timeZone } = formats

const MINUTE_MS = 60_000
const MAX_ROWS = 50
const LONGEST_MINUTES = 360
const WINDOWS = [5, 15, 30, 60, 120, 180, LONGEST_MINUTES]
/** After this long without an attempt, a client no longer keeps retrying. */
const KEEPS_RETRYING_MINUTES = 5

/** Draws the card with the last reading. */
export const drawReading = () => {
  if (known.status === null) return
  const { reading, upstream, lastReadyAt } = known.status
  /** @type {Node[]} */
  const facts = []
  /** @type {(term: string, ...words: readonly (string | Node)[]) => void} */
  const fact = (term, ...words) => {
    facts.push(element('dt', {}, term), element('dd', {}, ...words))
  }
  if (reading === null) fact(text.result, text.noneYet)
  else {
    const streak = reading.streak > 1 ? text.inARow(reading.streak) : ''
    fact(text.result, strong(text.kinds[reading.kind]), streak)
    if (reading.missing !== undefined) {
      fact(text.decidedBy, ...decidingFields(reading))
    }
    if (reading.problem !== undefined) fact(text.problem, bdiEnglish(reading.problem))
    fact(text.time, timeWithSeconds(reading.at), ' (', running(reading.at, 'ago'), ')')
    fact(text.source, text.sources[reading.source])
  }
  const last =
    lastReadyAt === null ? [text.notSinceStart] : [time(lastReadyAt), ' (', running(lastReadyAt, 'ago'), ')']
  fact(text.lastReady, ...last)
  fact('focus-server', bdi(upstream.url), upstream.reachable ? text.responds : text.doesNotRespond)
  put('reading', ...facts)
  const fields = Object.entries(reading?.metadata ?? {})
  show('metadata', fields.length > 0)
  put(
    'metadata-rows',
    ...fields.map(([name, value]) => {
      const words = value === null ? 'null' : bdi(typeof value === 'number' ? count(value) : String(value))
      const mark =
        reading?.missing?.includes(name) === true ? element('span', { class: 'mark' }, text.decided) : ''
      return row(rowHead(element('code', {}, bdi(name))), element('td', { class: 'value' }, words, mark))
    }),
  )
}

/** Draws the card with the request counts. */
export const drawCounts = () => {
  if (known.status === null) return
  const { totals, inFlight, waiting, mode, startedAt, version } = known.status
  /** @type {[term: string, value: number][]} */
  const counts = [
    mode === 'observe' ? [text.countWouldRefuse, totals.wouldRefuse] : [text.countRefused, totals.refused],
    [text.countForwarded, totals.forwarded],
    [text.countInFlight, inFlight],
    [text.countWaiting, waiting],
    [text.countProbes, totals.probes],
    [text.countOverloaded, totals.overloaded],
  ]
  const { since: countedSince, kept } = totals
  put(
    'counts',
    ...counts.map(([term, value], index) => {
      const part = index === 0 ? [recentPart(mode, countedSince ?? startedAt)] : []
      return element('div', {}, element('dt', {}, term, ...part), element('dd', {}, count(value)))
    }),
  )
  put(
    'counts-since',
    ...(countedSince !== undefined && kept === true
      ? text.countsSince(time(countedSince))
      : text.countsSinceStart(time(countedSince ?? startedAt))),
  )
  // The columns about observe mode are shown only if they are not empty.
  document.body.classList.toggle('observes', mode === 'observe' || totals.wouldRefuse > 0)
  put('about', ...text.about(bdi(version), bdi(timeZone)))
  drawReplicas(known.status)
}

/**
 * Draws the line about the replicas. It is hidden if replicas are off.
 *
 * @param {Status} status
 */
const drawReplicas = ({ replicas }) => {
  show('replicas', replicas !== undefined)
  if (replicas === undefined) return
  const { name, joined, problem, count: howMany, prober } = replicas
  const words = joined
    ? text.replicasJoined(bdi(name), howMany, prober)
    : [element('strong', {}, ...text.replicasAlone(bdi(name), bdiEnglish(problem ?? '')))]
  put('replicas', ...words)
}

/**
 * The number of refused requests that the chart of the last hours shows, if the tile counts from an earlier time. It
 * makes the two numbers comparable.
 *
 * @param {Status['mode']} mode
 * @param {string} countedSince
 */
const recentPart = (mode, countedSince) => {
  const past = recentPast()
  if (past === undefined || Date.parse(countedSince) >= past.start) return ''
  const part = mode === 'observe' ? past.wouldRefuse : past.refused
  return element('span', { class: 'part' }, text.ofThem(part, text.lastMinutes(past.minutes)))
}

/**
 * Whether a client has repeated a refused request and is still doing so.
 *
 * @param {Client} client
 */
const keepsRetrying = ({ attempts, last }) =>
  attempts > 1 && now() - Date.parse(last) < KEEPS_RETRYING_MINUTES * 60_000

/** @param {Client} client */
const clientRow = client => {
  const last = timeWithSeconds(client.last)
  return row(
    clientHead(client),
    number(client.attempts),
    observed(client.wouldRefuse),
    number(client.operations),
    element('td', { class: 'one-line' }, text.cadence(client.cadenceSeconds)),
    cell(last, ' (', running(client.last, 'ago'), ')'),
    cell(time(client.first)),
  )
}

/** Draws the card with the refused clients: those that keep retrying come first. */
export const drawClients = () => {
  if (known.clients === null || known.status === null) return
  const { clients, total, since: countedSince, kept = false } = known.clients
  const retrying = clients.filter(keepsRetrying)
  const others = clients.filter(client => !keepsRetrying(client))
  const began = time(countedSince ?? known.status.startedAt)
  show('clients-card', true)
  show('clients', retrying.length > 0)
  show('clients-none', retrying.length === 0)
  const none = [text.clientsNone(KEEPS_RETRYING_MINUTES)]
  put('clients-none', ...(total === 0 ? text.noClientSince(began, kept) : none))
  put('clients-rows', ...retrying.map(clientRow))
  show('others', others.length > 0)
  put('others-title', text.otherClients(others.length))
  put('others-rows', ...others.map(clientRow))
  show('clients-since', total > 0)
  // A node can be in one place only, and `began` is in the other sentence if there are no clients.
  if (total > 0)
    put('clients-since', ...text.clientsSince(began, kept), ' ', text.moreClients(total - clients.length))
}

/**
 * The causes of an outage in their order. The first one has the fields that decided, if they are known.
 *
 * @param {Outage} outage
 * @returns {Parts}
 */
const causeParts = outage => {
  const { missing } = outage.openedBy
  const fields = missing === undefined ? [] : [' (', element('code', {}, bdi(missing.join(', '))), ')']
  return causesOf(outage).flatMap(({ cause }, index) =>
    index === 0 ? [text.phases[cause], ...fields] : [text.nextCause, text.legend[cause]],
  )
}

/** Draws the card with the outages. */
export const drawOutages = () => {
  if (known.outages === null) return
  const outages = known.outages.outages.map(asInStatus)
  show('outages-card', true)
  show('outages', withOpen(outages).length > 0)
  show('outages-none', outages.length === 0)
  show('outage-unknown', isUnknown(outages))
  const oldest = outages.at(-1)
  show('outages-sum', oldest !== undefined)
  if (oldest !== undefined) {
    const refused = outages.reduce((sum, outage) => sum + outage.refused, 0)
    const wouldRefuse = outages.reduce((sum, outage) => sum + (outage.wouldRefuse ?? 0), 0)
    put('outages-sum', ...text.outagesSum(outages.length, time(oldest.startedAt), refused, wouldRefuse))
  }
  put('outages-rows', ...withOpen(outages).flatMap(outageRows))
}

/** @param {Outage} outage */
const outageRows = outage => {
  const { id, startedAt, endedAt, seconds, refused, operations } = outage
  const lasted =
    endedAt === null
      ? [running(startedAt, 'for'), ' ', element('span', { class: 'mark' }, text.ongoing)]
      : [duration(seconds * 1000)]
  const made = row(
    rowHead(outageLink(outage)),
    element('td', { class: 'one-line' }, ...lasted),
    cell(...causeParts(outage)),
    number(refused),
    observed(outage.wouldRefuse),
    number(operations),
    endedAt === null ? cell('–') : cell(time(endedAt)),
  )
  made.setAttribute('data-key', id ?? startedAt)
  if (endedAt === null) made.className = 'now'
  const panel = outagePanel(outage, made.cells.length)
  return panel === undefined ? [made] : [made, panel]
}

/**
 * The part of the past that the page shows, and what was refused in it. Undefined until the history arrives.
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
        index === 0 ? cell(running(span.iso, 'for'), text.soFar) : cell(duration(span.to - span.from)),
      ),
    ),
  )
}

/**
 * @param {NonNullable<ReturnType<typeof recentPast>>} past
 * @param {Extent} extent
 */
const drawRefused = ({ bars, refused, wouldRefuse, countedFrom }, extent) => {
  // In observe mode nothing is refused; the chart shows what would have been.
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
