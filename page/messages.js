/**
 * Every text of the page. A second language is one more object with the members of `en`, added to `catalogues`.
 *
 * A text with elements in it (a time that keeps counting, a name from a client) is a function that gets the elements
 * and returns the parts in their order.
 */
import { count } from './format.js'

/** @typedef {readonly (string | Node)[]} Parts */

const plural = new Intl.PluralRules('en')

/**
 * @param {number} value
 * @param {string} one
 * @param {string} other
 */
const counted = (value, one, other) => `${count(value)} ${plural.select(value) === 'one' ? one : other}`

/** A duration in at most two units. @param {number} durationMs */
const duration = durationMs => {
  const seconds = Math.max(0, Math.round(durationMs / 1000))
  if (seconds < 60) return `${count(seconds)} s`
  /** @type {(large: number, unit: string, small: number, smallUnit: string) => string} */
  const two = (large, unit, small, smallUnit) =>
    `${count(large)} ${unit}${small === 0 ? '' : ` ${count(small)} ${smallUnit}`}`
  const minutes = Math.floor(seconds / 60)
  if (minutes < 10) return two(minutes, 'min', seconds % 60, 's')
  if (minutes < 60) return `${count(minutes)} min`
  const hours = Math.floor(minutes / 60)
  return hours < 24 ? two(hours, 'h', minutes % 60, 'min') : two(Math.floor(hours / 24), 'd', hours % 24, 'h')
}

/** The texts in English. */
export const en = {
  language: 'en',
  duration,

  // Around the page
  skip: 'Skip to the state',
  connecting: 'Connecting…',
  live: 'Live',
  noContact: 'No contact with focus-breaker. Trying again…',
  /** @type {(time: Node) => Parts} */
  noContactSince: time => [
    'No contact with focus-breaker since ',
    time,
    '. The page shows the state at that time. Trying again…',
  ],
  /** @type {(time: Node) => Parts} */
  asOf: time => ['as of ', time],
  /** @param {string} headline */
  title: headline => `${headline} – focus-breaker`,
  titleNoContact: 'No contact – focus-breaker',
  /** @type {(version: Node, zone: Node) => Parts} */
  about: (version, zone) => ['focus-breaker ', version, ', times in ', zone],
  machinesLabel: 'The same as JSON',

  // The state
  clientsNode: 'clients',
  fiberNode: 'fiber',
  ready: 'Ready',
  waiting: 'Waiting for fiber',
  unreachable: 'focus-server’s metadata cannot be read',
  recovering: 'Recovering',
  recoveringNext: 'Recovering: waiting for one more successful probe',
  starting: 'Starting: no reading yet',
  stopped: 'Stopped by an operator',
  maintenance: 'Planned maintenance',
  letThrough: 'Let through by an operator',
  /** @type {(time: Node, running: Node) => Parts} */
  since: (time, running) => ['since ', time, ' (', running, ')'],
  /** @type {(time: Node, running: Node) => Parts} */
  until: (time, running) => ['until ', time, ' (', running, ' left)'],
  /** @param {string} time */
  ago: time => `${time} ago`,
  observing: 'Observe mode: no request is refused',

  // The notes below the state
  allRefused: 'Every guarded request is refused, whatever the state of the fiber. ',
  allWouldBeRefused: 'Every guarded request would be refused, whatever the state of the fiber. ',
  noneRefused: 'No request is refused, whatever the state of the fiber. ',
  /** @type {(time: Node, by: Node, silent: boolean) => Parts} */
  overrideSetAt: (time, by, silent) => ['Set at ', time, ' by ', by, silent ? '. No alert is sent.' : '.'],
  /** @type {(headline: Node, since: Parts) => Parts} */
  readingsSay: (headline, since) => ['The readings say: ', headline, ', ', ...since, '.'],
  /** @type {Parts} */
  jobsCanStart: ['The fiber is connected. Jobs can start.'],
  full: 'Full at the moment:',
  fullWhy: ' the limit of guarded requests in progress is reached.',
  /** @type {(time: Node, durationMs: number, refused: number) => Parts} */
  lastOutage: (time, durationMs, refused) => [
    'The last outage ended at ',
    time,
    `, after ${duration(durationMs)}; ${counted(refused, 'request was', 'requests were')} refused.`,
  ],
  /** @param {number} value */
  requests: value => counted(value, 'request', 'requests'),
  wouldHaveBeenRefused:
    ' would have been refused since the start; all of them were forwarded to focus-server.',
  refusedSpared: ' refused, focus-server spared.',
  fewAtATime: 'The fiber is back. Requests are admitted a few at a time.',
  /** @type {(problem: Node) => Parts} */
  fiberUnknown: problem => ['The state of the fiber is unknown: ', problem, '.'],
  /** @type {(median: Node, p90Ms: number, samples: number) => Parts} */
  forecast: (median, p90Ms, samples) => [
    'Such outages last ',
    median,
    `, one in ten longer than ${duration(p90Ms)} (based on ${counted(samples, 'outage', 'outages')}).`,
  ],
  contradiction: 'focus-server contradicts itself ',
  /** @type {(fields: Node) => Parts} */
  contradictionWhy: fields => [
    ': its metadata says that the fiber is connected, its responses to configure say that it is missing (',
    fields,
    ').',
  ],

  // The last hours
  /** @param {number} minutes */
  lastMinutes: minutes =>
    minutes < 60
      ? `The last ${minutes} minutes`
      : minutes === 60
        ? 'The last hour'
        : `The last ${minutes / 60} hours`,
  statesTitle: 'State',
  statesAsTable: 'States as a table',
  statesCaption: 'States, newest first',
  legendReady: 'ready',
  legendRefused: 'refused',
  legendNotReady: 'not ready',
  legendRecovering: 'recovering',
  legendUnknown: 'not known',
  unreachableShort: 'Metadata cannot be read',
  startingShort: 'Starting',
  /** @type {(state: string, from: string, durationMs: number) => string} */
  spanTip: (state, from, durationMs) => `${state}, from ${from}, ${duration(durationMs)}`,
  /** @type {(from: string, to: string, parts: readonly string[]) => string} */
  statesLabel: (from, to, parts) => `States from ${from} to ${to}: ${parts.join(', ')}.`,
  /** @param {number} durationMs */
  readyFor: durationMs => `ready for ${duration(durationMs)}`,
  noOutage: 'no outage',
  /** @type {(durationMs: number, outages: number) => string} */
  notReadyFor: (durationMs, outages) =>
    `not ready for ${duration(durationMs)} in ${counted(outages, 'outage', 'outages')}`,
  /** @param {number} durationMs */
  recoveringFor: durationMs => `recovering for ${duration(durationMs)}`,
  soFar: ' so far',
  refusedTitle: 'Refused requests per minute',
  refusedAsTable: 'Refused requests as a table',
  refusedCaption: 'Minutes with refused requests, newest first',
  none: 'none',
  noneObserving: 'none: observe mode refuses no request',
  /** @type {(sum: number, highest: number, at: string) => string} */
  refusedSum: (sum, highest, at) => `${count(sum)} in total, at most ${count(highest)} in a minute, at ${at}`,
  /** @type {(from: string, to: string, words: string) => string} */
  refusedLabel: (from, to, words) => `Refused requests per minute from ${from} to ${to}: ${words}.`,
  /** @type {(at: string, value: number) => string} */
  barTip: (at, value) => `${at}: ${count(value)}`,
  from: 'From',
  state: 'State',
  lasted: 'Lasted',
  minute: 'Minute',
  refused: 'Refused',

  // The last reading
  readingTitle: 'The last reading',
  metadataCaption: 'focus-server’s metadata',
  field: 'Field',
  value: 'Value',
  result: 'Result',
  noneYet: 'None yet',
  kinds: {
    ready: 'The fiber is connected',
    waiting: 'The fiber is missing',
    unreachable: 'The metadata could not be read',
  },
  /** @param {number} streak */
  inARow: streak => `, ${count(streak)} times in a row`,
  decidedBy: 'Decided by',
  /** @type {(name: Node, value: Node | string | undefined) => Parts} */
  fieldIs: (name, value) => (value === undefined ? [name] : [name, ', which is ', value]),
  problem: 'Problem',
  time: 'Time',
  source: 'Source',
  sources: {
    probe: 'a probe',
    configure: 'focus-server’s response to a configure',
    client: 'metadata that a client requested',
  },
  lastReady: 'Last ready',
  notSinceStart: 'not since the start',
  responds: ', responds',
  doesNotRespond: ', does not respond as expected',
  decided: 'decided',

  // Requests
  countsTitle: 'Requests',
  countRefused: 'refused',
  countWouldRefuse: 'would have been refused',
  countForwarded: 'forwarded',
  countInFlight: 'guarded, in progress',
  countWaiting: 'waiting to be admitted',
  countProbes: 'probes',
  countOverloaded: 'rejected: queue full',
  /** @type {(time: Node) => Parts} */
  countsSince: time => ['Since the start at ', time, '.'],

  // Clients
  clientsTitle: 'Clients that keep asking',
  clientsNone: 'No client has been refused since the start.',
  clientsNoneObserving: 'Observe mode refuses no client.',
  /** @param {number} more */
  clientsCaption: more =>
    `Clients whose requests were refused, the latest first${more > 0 ? `; ${count(more)} more are not shown` : ''}`,
  client: 'Client',
  address: 'Address',
  attempts: 'Attempts',
  operations: 'Operations',
  interval: 'Interval',
  first: 'First',
  last: 'Last',
  otherAgents: 'other user agents of this address',
  noAgent: 'no user agent',
  /** @param {number | null} seconds */
  cadence: seconds =>
    seconds === null ? 'none' : seconds === 0 ? 'without a pause' : `every ${count(seconds)} s`,

  // Outages
  outagesTitle: 'Outages',
  outagesNone: 'No outage is known.',
  outagesCaption: 'Outages, newest first',
  began: 'Began',
  ended: 'Ended',
  cause: 'Cause',
  ongoing: 'ongoing',

  // The manual override
  operatorTitle: 'Manual override',
  notKept: 'An override that is set here ends when focus-breaker restarts.',
  noOverride: 'No override is set: the readings decide.',
  /** @type {(action: Node, until: Parts, reason: Node) => Parts} */
  standing: (action, until, reason) => [action, ' ', ...until, ': ', reason],
  action: 'Action',
  stop: 'Stop',
  stopChoice: 'Stop.',
  stopHint: 'Every guarded request is refused, even while the fiber is connected.',
  letAllThrough: 'Let all through',
  letThroughChoice: 'Let all through.',
  letThroughHint: 'No request is refused, even while the fiber is missing.',
  maintenanceChoice: 'Planned maintenance.',
  maintenanceHint: 'Every guarded request is refused, and no alert is sent.',
  reason: 'Reason',
  reasonHint: 'Every refused client and every visitor of this page can read it.',
  forMinutes: 'Duration in minutes',
  /** @param {string} time */
  endsAt: time => `ends at ${time}`,
  minutesInvalid: 'a whole number from 1 to 1440',
  token: 'Token',
  tokenHint: 'The configured admin.token. Only this page keeps it, until you close the page.',
  set: 'Set',
  remove: 'Remove the override',
  earlierOverrides: 'Earlier overrides',
  earlierOverridesCaption: 'Earlier overrides, newest first',
  plannedEnd: 'Planned end',
  override: 'Override',
  setBy: 'Set by',
  wrongToken: 'The token is wrong. Nothing was changed.',
  tooManyWrongTokens: 'Too many wrong tokens were sent, and this one is wrong, too. Nothing was changed.',
  noTokenConfigured: 'No token is configured any more, so nothing can be changed here.',
  /** @param {string} why */
  nothingChanged: why => `Nothing was changed. ${why}`,
  /** @param {number} status */
  responseWas: status => `The response was ${status}.`,
  sending: 'Sending…',
  noResponse: 'No response. It is not known whether anything was changed: check the state above.',
  overrideSet: 'Override set.',
  overrideRemoved: 'Override removed. The readings decide again.',
}

/** @type {Record<string, typeof en>} */
const catalogues = { en }

/** The texts in the first of the browser's languages that the page has. */
export const text =
  navigator.languages.map(language => catalogues[language.split('-')[0] ?? '']).find(each => each) ?? en
