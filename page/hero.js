/** @import { Override, Reading, Status } from './shapes.d.ts' */
/** @import { Parts } from './messages-en.js' */
import { $, bdi, bdiEnglish, element, put, show, since, strong, time, until } from './dom.js'
import { formats, text } from './language.js'
import { contact, known } from './live.js'

/** @typedef {'ready' | 'waiting' | 'unreachable' | 'recovering' | 'stopped' | 'maintenance' | 'let-through' | 'unknown'} Kind */

/** @type {Record<Kind, string>} */
const SYMBOLS = {
  ready: 'M14 25l7 7 13-15',
  waiting: 'M24 13v12l8 5',
  unreachable: 'M18.5 19a5.5 5.5 0 1 1 7.6 5.1c-1.5.7-2.1 1.6-2.1 3.4M24 34h.01',
  recovering: 'M15 30l6-7 5 4 7-10M27 17h6v6',
  stopped: 'M18 15v18M30 15v18',
  maintenance:
    'M32.5 14.5a7.5 7.5 0 0 0-9.8 9.3l-7.6 7.6a3.2 3.2 0 0 0 4.5 4.5l7.6-7.6a7.5 7.5 0 0 0 9.3-9.8l-4.6 4.6-4-4z',
  'let-through': 'M13 24h21M26 15l9 9-9 9',
  unknown: 'M14 24h.01M24 24h.01M34 24h.01',
}

/** @type {Record<Kind, string>} */
const ICON_COLOURS = {
  ready: '#10694e',
  waiting: '#c2540a',
  unreachable: '#8c1d3a',
  recovering: '#1d568f',
  stopped: '#593a93',
  maintenance: '#593a93',
  'let-through': '#6b5600',
  unknown: '#4a5663',
}

/** Times closer together than this are shown as one. */
const SAME_TIME_MS = 5000

/**
 * The state according to the readings, without the override. Inside a sentence, the clause replaces the headline.
 *
 * @param {Status} status
 * @returns {{ kind: Kind, headline: string, clause?: string }}
 */
const byReadings = ({ circuit, reading, refusal }) => {
  if (circuit.state === 'half-open') return { kind: 'recovering', headline: text.recovering }
  if (circuit.state === 'closed') return { kind: 'ready', headline: text.ready }
  if (circuit.cause === 'starting') {
    return { kind: 'unknown', headline: text.starting, clause: text.startingClause }
  }
  if (refusal === 'recovering' || reading?.kind === 'ready') {
    return { kind: 'recovering', headline: text.recoveringNext, clause: text.recoveringNextClause }
  }
  if (circuit.cause === 'waiting') return { kind: 'waiting', headline: text.waiting }
  return { kind: 'unreachable', headline: text.unreachable }
}

/**
 * When the state began with its current cause, and when the outage began if that was earlier.
 *
 * @param {Status} status
 * @returns {Parts}
 */
const sinceLine = ({ circuit, outage }) => {
  const began = circuit.outageStartedAt ?? outage?.startedAt
  const isOlder =
    circuit.state !== 'closed' &&
    began !== undefined &&
    Date.parse(circuit.since) - Date.parse(began) > SAME_TIME_MS
  return isOlder ? [...since(circuit.since), ...text.withinOutage(since(began))] : since(circuit.since)
}

/**
 * The state for people: its kind, its headline, and the line below it.
 *
 * @param {Status} status
 * @returns {{ kind: Kind, headline: string, line: Parts }}
 */
const inWords = status => {
  const { override } = status
  if (override === null) return { ...byReadings(status), line: sinceLine(status) }
  const line = until(override.until)
  if (override.state === 'closed') return { kind: 'let-through', headline: text.letThrough, line }
  if (override.silent) return { kind: 'maintenance', headline: text.maintenance, line }
  return { kind: 'stopped', headline: text.stopped, line }
}

/** @param {Parts} parts */
const note = (...parts) => element('p', {}, ...parts)

/**
 * The fields that decided the last reading, each with its value.
 *
 * @param {Reading} reading
 * @returns {Parts}
 */
export const decidingFields = ({ missing = [], metadata }) =>
  missing.flatMap((name, index) => {
    const value = metadata?.[name]
    const words = value === undefined ? undefined : value === null ? 'null' : bdi(JSON.stringify(value))
    return [index > 0 ? '; ' : '', ...text.fieldIs(element('code', {}, bdi(name)), words)]
  })

/**
 * The fields that decided, and what to do.
 *
 * @param {Status} status
 * @param {Kind} kind
 * @returns {readonly Node[]}
 */
const adviceOn = ({ reading, upstream }, kind) => {
  if (kind === 'waiting') {
    const fields = reading?.kind === 'waiting' ? decidingFields(reading) : []
    const decided = fields.length > 0 ? [note(...text.decidedByFields(fields))] : []
    return [...decided, note(strong(text.toDo), text.toDoWaiting)]
  }
  if (kind === 'unreachable') {
    const why = reading?.kind === 'unreachable' && reading.problem !== undefined
    return [
      ...(why ? [note(...text.fiberUnknown(bdiEnglish(reading.problem ?? '')))] : []),
      note(strong(text.toDo), ...text.toDoUnreachable(bdi(upstream.url))),
    ]
  }
  if (kind === 'recovering') return [note(strong(text.toDo), text.toDoRecovering)]
  return kind === 'unknown' ? [note(strong(text.toDo), text.toDoStarting)] : []
}

/**
 * The refusals of the current outage, and how many of them came while focus-server was up.
 *
 * @param {Status} status
 * @param {Kind} kind
 * @returns {Parts}
 */
const refusedIn = ({ outage }, kind) => {
  const refused = outage?.refused ?? 0
  if (refused === 0) return [text.noneRefusedYet]
  const spared = outage?.spared ?? (kind === 'waiting' ? refused : 0)
  return text.refusedAndSpared(strong(text.requests(refused)), refused, spared, kind !== 'unreachable')
}

/**
 * The notes about an override.
 *
 * @param {Status} status
 * @param {Override} override
 * @returns {readonly Node[]}
 */
const overrideNotes = (status, { state, reason, since: setAt, by, silent }) => {
  const isObserving = status.mode === 'observe'
  const effect =
    state === 'closed' ? text.noneRefused : isObserving ? text.allWouldBeRefused : text.allRefused
  const { headline, clause = headline } = byReadings(status)
  return [
    element('p', { class: 'reason' }, bdi(reason)),
    note(effect, ...text.overrideSetAt(time(setAt), bdi(by), silent)),
    note(...text.readingsSay(strong(clause), sinceLine(status))),
  ]
}

/**
 * The note about observe mode: how many requests enforcing would refuse.
 *
 * @param {Status} status
 * @returns {Node}
 */
const observeNote = ({ totals, startedAt }) => {
  if (totals.wouldRefuse === 0) return note(...text.wouldRefuseNone(time(totals.since ?? startedAt)))
  const { clients = [], total = 0 } = known.clients ?? {}
  const met = clients.filter(({ wouldRefuse = 0 }) => wouldRefuse > 0).length
  const isMore = met > 0 && total > clients.length
  return note(
    ...text.wouldHaveBeenRefused(
      strong(text.requests(totals.wouldRefuse)),
      totals.wouldRefuse,
      time(totals.since ?? startedAt),
      met,
      isMore,
      element('code', {}, 'guard.mode'),
    ),
  )
}

/**
 * @param {Status} status
 * @returns {readonly Node[]}
 */
const notesOf = status => {
  const { override, forecast, disagreement, mode, refusal } = status
  const isObserving = mode === 'observe'
  const { kind } = byReadings(status)
  if (override !== null) {
    const observed = isObserving ? [observeNote(status)] : []
    return [...overrideNotes(status, override), ...observed]
  }
  const notes = []
  if (kind === 'ready') {
    // While focus-server contradicts itself, it is not known whether the fiber is connected.
    const calm = disagreement === null ? text.jobsCanStart : text.jobsMayStart
    notes.push(refusal === 'overloaded' ? note(strong(text.full), text.fullWhy) : note(calm))
    const last = known.outages?.outages.find(({ endedAt }) => endedAt !== null)
    if (last !== undefined && last.endedAt !== null) {
      const { endedAt, seconds, refused, wouldRefuse = 0 } = last
      notes.push(note(...text.lastOutage(time(endedAt), seconds * 1000, refused, wouldRefuse)))
    }
  }
  if (status.circuit.state === 'half-open' && !isObserving) {
    notes.push(note(text.fewAtATime(status.circuit.cause, disagreement !== null)))
  }
  notes.push(...adviceOn(status, kind))
  if (isObserving) notes.push(observeNote(status))
  else if (kind !== 'ready' && kind !== 'unknown') notes.push(note(...refusedIn(status, kind)))
  if (forecast !== null) {
    const { p50Seconds, p90Seconds, samples } = forecast
    const confidence = forecast.confidence ?? (samples < 10 ? 'low' : samples < 30 ? 'fair' : 'good')
    const cause = forecast.cause ?? status.circuit.cause
    const median = strong(formats.duration(p50Seconds * 1000))
    notes.push(note(...text.forecast(cause, median, p90Seconds * 1000, samples, confidence)))
  }
  if (disagreement !== null) {
    const fields = bdi(disagreement.missing.join(', '))
    const why = text.contradictionWhy(since(disagreement.since), fields)
    notes.push(note(strong(text.contradiction), ...why))
  }
  return notes
}

/** Draws the state at the top of the page, and on the tab. */
export const drawHero = () => {
  const { status } = known
  if (status === null) return
  const { kind, headline, line } = inWords(status)
  $('banner').dataset.kind = kind
  const name = nameOf(status)
  show('name', name !== undefined)
  put('name', bdi(name ?? ''))
  $('symbol-path').setAttribute('d', SYMBOLS[kind])
  if ($('headline').textContent !== headline) {
    put('headline', headline)
    // Screen readers announce only a new state, because the numbers change all the time.
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

/**
 * The name of the installation (`notify.name`), if one is configured.
 *
 * @param {Status} status
 */
const nameOf = ({ name }) => (name == null || name === '' ? undefined : name)

/** Draws the title and the icon of the browser's tab. */
export const drawTab = () => {
  if (known.status === null) return
  const { kind, headline } = inWords(known.status)
  document.title = text.title(contact.isLost ? text.titleNoContact : headline, nameOf(known.status))
  const shown = contact.isLost ? 'unknown' : kind
  const icon = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 48 48"><circle cx="24" cy="24" r="24" fill="${ICON_COLOURS[shown]}"/><path d="${SYMBOLS[shown]}" fill="none" stroke="#fff" stroke-width="5" stroke-linecap="round" stroke-linejoin="round"/></svg>`
  const address = `data:image/svg+xml,${encodeURIComponent(icon)}`
  if ($('icon').getAttribute('href') !== address) $('icon').setAttribute('href', address)
}
