/** @import { Client, Outage, Status } from './shapes.d.ts' */
/** @import { Parts } from './messages.js' */
import {
  bdi,
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
import { count, timeZone } from './format.js'
import { decidingFields } from './hero.js'
import { text } from './messages.js'
import { clientHead, isUnknown, outageLink, outagePanel, withOpen } from './outage.js'
import { recentPast } from './past.js'
import { causesOf } from './phases.js'
import { known, now } from './state.js'

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
    if (reading.problem !== undefined) fact(text.problem, bdi(reading.problem))
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

/** Draws the card with the numbers of requests. */
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
  // Columns about mode `observe` are shown only where they say something.
  document.body.classList.toggle('observes', mode === 'observe' || totals.wouldRefuse > 0)
  put('about', ...text.about(bdi(version), bdi(timeZone)))
  drawReplicas(known.status)
}

/**
 * Draws the line about the replicas; there is none where replicas are off.
 *
 * @param {Status} status
 */
const drawReplicas = ({ replicas }) => {
  show('replicas', replicas !== undefined)
  if (replicas === undefined) return
  const { name, joined, problem, count: howMany, prober } = replicas
  const words = joined
    ? text.replicasJoined(bdi(name), howMany, prober)
    : [element('strong', {}, ...text.replicasAlone(bdi(name), bdi(problem ?? '')))]
  put('replicas', ...words)
}

/**
 * How many of the refused requests the chart of the last hours shows, where the tile counts for longer: so the two
 * numbers can be compared.
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

/** After this long without an attempt, a client no longer keeps asking. */
const KEEPS_ASKING_MINUTES = 5

/**
 * A client that has repeated a refused request, and does so still.
 *
 * @param {Client} client
 */
const keepsAsking = ({ attempts, last }) =>
  attempts > 1 && now() - Date.parse(last) < KEEPS_ASKING_MINUTES * 60_000

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

/** Draws the card with the refused clients: first those that keep asking. */
export const drawClients = () => {
  if (known.clients === null || known.status === null) return
  const { clients, total, since: countedSince, kept = false } = known.clients
  const asking = clients.filter(keepsAsking)
  const others = clients.filter(client => !keepsAsking(client))
  const began = time(countedSince ?? known.status.startedAt)
  show('clients-card', true)
  show('clients', asking.length > 0)
  show('clients-none', asking.length === 0)
  const none = [text.clientsNone(KEEPS_ASKING_MINUTES)]
  put('clients-none', ...(total === 0 ? text.noClientSince(began, kept) : none))
  put('clients-rows', ...asking.map(clientRow))
  show('others', others.length > 0)
  put('others-title', text.otherClients(others.length))
  put('others-rows', ...others.map(clientRow))
  show('clients-since', total > 0)
  // One node cannot stand in two places.
  if (total > 0)
    put('clients-since', ...text.clientsSince(began, kept), ' ', text.moreClients(total - clients.length))
}

/**
 * The causes of an outage in their order, each with the fields that decided where they are known.
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
  const { outages } = known.outages
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
      : [text.duration(seconds * 1000)]
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
