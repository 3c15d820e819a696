/** @import { Status } from './shapes.d.ts' */
/** @import { Parts } from './messages.js' */
import { $, bdi, element, put, show, since, strong, time, until } from './dom.js'
import { text } from './messages.js'
import { contact, known } from './state.js'

/** @typedef {'ready' | 'waiting' | 'unreachable' | 'recovering' | 'operator' | 'unknown'} Kind */

/** @type {Record<Kind, string>} */
const SYMBOLS = {
  ready: 'M14 25l7 7 13-15',
  waiting: 'M24 13v12l8 5',
  unreachable: 'M18.5 19a5.5 5.5 0 1 1 7.6 5.1c-1.5.7-2.1 1.6-2.1 3.4M24 34h.01',
  recovering: 'M15 30l6-7 5 4 7-10M27 17h6v6',
  operator: 'M18 15v18M30 15v18',
  unknown: 'M14 24h.01M24 24h.01M34 24h.01',
}

/** @type {Record<Kind, string>} */
const ICON_COLOURS = {
  ready: '#10694e',
  waiting: '#c2540a',
  unreachable: '#8c1d3a',
  recovering: '#1d568f',
  operator: '#593a93',
  unknown: '#4a5663',
}

/**
 * The state by the readings, without the override.
 *
 * @param {Status} status
 * @returns {{ kind: Kind, headline: string, since: string }}
 */
const byReadings = ({ circuit, outage, reading, refusal }) => {
  // The outage is older than the circuit's state when its recovery has failed.
  const began = outage?.startedAt ?? circuit.since
  if (circuit.state === 'half-open') {
    return { kind: 'recovering', headline: text.recovering, since: circuit.since }
  }
  if (circuit.state === 'closed') return { kind: 'ready', headline: text.ready, since: circuit.since }
  if (circuit.cause === 'starting') {
    return { kind: 'unknown', headline: text.starting, since: circuit.since }
  }
  if (refusal === 'recovering' || reading?.kind === 'ready') {
    return { kind: 'recovering', headline: text.recoveringNext, since: began }
  }
  if (circuit.cause === 'waiting') return { kind: 'waiting', headline: text.waiting, since: began }
  return { kind: 'unreachable', headline: text.unreachable, since: began }
}

/**
 * The state for people: its kind, its headline, and the line below it.
 *
 * @param {Status} status
 * @returns {{ kind: Kind, headline: string, line: Parts }}
 */
const inWords = status => {
  const { override } = status
  const found = byReadings(status)
  if (override === null) return { ...found, line: since(found.since) }
  const headline = override.silent
    ? text.maintenance
    : override.state === 'open'
      ? text.stopped
      : text.letThrough
  return { kind: 'operator', headline, line: until(override.until) }
}

/** @param {Parts} parts */
const note = (...parts) => element('p', {}, ...parts)

/**
 * @param {Status} status
 * @returns {readonly Node[]}
 */
const notesOf = status => {
  const { override, forecast, disagreement, mode, totals, outage, reading, refusal } = status
  const isObserving = mode === 'observe'
  const { kind, headline, since: began } = byReadings(status)
  const notes = []
  if (override !== null) {
    const effect =
      override.state === 'closed' ? text.noneRefused : isObserving ? text.allWouldBeRefused : text.allRefused
    notes.push(element('p', { class: 'reason' }, bdi(override.reason)))
    notes.push(note(effect, ...text.overrideSetAt(time(override.since), bdi(override.by), override.silent)))
    notes.push(note(...text.readingsSay(strong(headline), since(began))))
    return notes
  }
  if (kind === 'ready') {
    notes.push(refusal === 'overloaded' ? note(strong(text.full), text.fullWhy) : note(...text.jobsCanStart))
    const last = known.outages?.outages.find(({ endedAt }) => endedAt !== null)
    if (last !== undefined && last.endedAt !== null) {
      notes.push(note(...text.lastOutage(time(last.endedAt), last.seconds * 1000, last.refused)))
    }
  } else if (isObserving) {
    notes.push(note(strong(text.requests(totals.wouldRefuse)), text.wouldHaveBeenRefused))
  } else if (kind !== 'unknown') {
    notes.push(note(strong(text.requests(outage?.refused ?? 0)), text.refusedSpared))
  }
  if (status.circuit.state === 'half-open' && !isObserving) notes.push(note(text.fewAtATime))
  if (kind === 'unreachable' && reading?.kind === 'unreachable') {
    notes.push(note(...text.fiberUnknown(bdi(reading.problem ?? ''))))
  }
  if (forecast !== null) {
    const { p50Seconds, p90Seconds, samples } = forecast
    const median = strong(text.duration(p50Seconds * 1000))
    notes.push(note(...text.forecast(median, p90Seconds * 1000, samples)))
  }
  if (disagreement !== null) {
    notes.push(
      note(
        strong(text.contradiction),
        ...since(disagreement.since),
        ...text.contradictionWhy(bdi(disagreement.missing.join(', '))),
      ),
    )
  }
  return notes
}

/** Draws the state at the top of the page, and on the tab. */
export const drawHero = () => {
  const { status } = known
  if (status === null) return
  const { kind, headline, line } = inWords(status)
  $('banner').dataset.kind = kind
  $('symbol-path').setAttribute('d', SYMBOLS[kind])
  if ($('headline').textContent !== headline) {
    put('headline', headline)
    // The numbers change all the time; only another state is announced.
    put('announced', headline)
  }
  put('since', ...line)
  put('notes', ...notesOf(status))
  show('notes', true)
  const tags = status.mode === 'observe' ? [text.observing] : []
  put('tags', ...tags.map(tag => element('li', {}, tag)))
  show('tags', tags.length > 0)
  const isRefusing = !status.admits && status.mode === 'enforce'
  const isFew = status.circuit.state === 'half-open' && status.override === null && status.mode === 'enforce'
  $('to-server').dataset.is = isFew ? 'few' : isRefusing ? 'cut' : 'flow'
  const read = status.reading?.kind
  $('to-fiber').dataset.is = read === 'ready' ? 'flow' : read === 'waiting' ? 'gap' : 'unknown'
  show('way', true)
  drawTab()
}

/** Draws the title and the icon of the browser's tab. */
export const drawTab = () => {
  if (known.status === null) return
  const { kind, headline } = inWords(known.status)
  document.title = contact.isLost ? text.titleNoContact : text.title(headline)
  const shown = contact.isLost ? 'unknown' : kind
  const icon = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 48 48"><circle cx="24" cy="24" r="24" fill="${ICON_COLOURS[shown]}"/><path d="${SYMBOLS[shown]}" fill="none" stroke="#fff" stroke-width="5" stroke-linecap="round" stroke-linejoin="round"/></svg>`
  const address = `data:image/svg+xml,${encodeURIComponent(icon)}`
  if ($('icon').getAttribute('href') !== address) $('icon').setAttribute('href', address)
}
