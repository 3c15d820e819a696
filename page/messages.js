/**
 * Every text of the page. A second language is one more object with the members of `en`, added to `catalogues`.
 *
 * A text with elements in it (a time that keeps counting, a name from a client) is a function that gets the elements
 * and returns the parts in their order.
 */
import { count } from './format.js'

/** @import { Cause, Phase } from './shapes.d.ts' */
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

/** @type {Record<string, string>} */
const OVERRIDE_ENDS = { expired: ', expired', removed: ', removed', replaced: ', replaced' }

/** @type {Record<Cause, string>} */
const FORECAST_CAUSES = {
  waiting: ' with a missing fiber',
  unreachable: ' with unreadable metadata',
  starting: '',
}

/** @typedef {'low' | 'fair' | 'good'} Confidence */

/** @type {Record<Confidence, string>} */
const CONFIDENCES = {
  low: 'A rough estimate from only',
  fair: 'An estimate from',
  good: 'A good estimate from',
}

/** @type {(refused: number, wouldRefuse: number) => string} */
const refusedWords = (refused, wouldRefuse) => {
  const words = `${counted(refused, 'request was', 'requests were')} refused`
  if (wouldRefuse === 0) return `${words}.`
  const observed = `${counted(wouldRefuse, 'request', 'requests')} would have been refused`
  return refused === 0 ? `${observed}.` : `${words}; ${observed}.`
}

/** @type {Record<Phase | 'unknown', string>} */
const LEGEND = {
  ready: 'ready',
  waiting: 'waiting for fiber',
  unreachable: 'metadata unreadable',
  recovering: 'recovering',
  starting: 'starting',
  stopped: 'stopped by an operator',
  maintenance: 'planned maintenance',
  'let-through': 'let through by an operator',
  'not-running': 'focus-breaker not running',
  unknown: 'not known',
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
  /** @type {(headline: string, name: string | undefined) => string} */
  title: (headline, name) => [headline, ...(name === undefined ? [] : [name]), 'focus-breaker'].join(' – '),
  titleNoContact: 'No contact',
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
  /** @type {(since: Parts) => Parts} */
  withinOutage: since => [', within an outage ', ...since],
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
  jobsMayStart: 'Requests are admitted.',
  full: 'Full at the moment:',
  fullWhy: ' the limit of guarded requests in progress is reached.',
  /** @type {(time: Node, durationMs: number, counts: { refused: number, wouldRefuse: number }) => Parts} */
  lastOutage: (time, durationMs, { refused, wouldRefuse }) => [
    'The last outage ended at ',
    time,
    ` after ${duration(durationMs)}. ${refusedWords(refused, wouldRefuse)}`,
  ],
  /** @param {number} value */
  requests: value => counted(value, 'request', 'requests'),
  noneRefusedYet: 'No request has been refused yet.',
  /** @type {(refused: number, spared: number, isUp: boolean) => Parts} */
  refusedAndSpared: (refused, spared, isUp) => [
    spared === 0
      ? ' refused.'
      : spared < refused
        ? ` refused, ${count(spared)} of them while focus-server was up.`
        : isUp
          ? ' refused, focus-server spared.'
          : ' refused, all of them while focus-server was up.',
  ],
  /** @type {(since: Node) => Parts} */
  wouldRefuseNone: since => ['No request would have been refused since ', since, '.'],
  /** @type {(since: Node, clients: number, more: boolean, option: Node) => Parts} */
  wouldHaveBeenRefused: (since, clients, more, option) => [
    ' would have been refused since ',
    since,
    clients === 0 ? '' : `, from ${more ? 'more than ' : ''}${counted(clients, 'client', 'clients')}`,
    '; all of them were forwarded to focus-server. To refuse such requests, set ',
    option,
    ' to enforce.',
  ],
  /** @type {(fields: Parts) => Parts} */
  decidedByFields: fields => ['Decided by ', ...fields, '.'],
  toDo: 'What to do: ',
  toDoWaiting: 'connect the fiber. Jobs can start again as soon as focus-server reports it.',
  /** @type {(url: Node) => Parts} */
  toDoUnreachable: url => ['check that focus-server is running and that ', url, ' responds.'],
  toDoRecovering: 'wait. No action is needed.',
  toDoStarting: 'wait a few seconds for the first probe.',
  /** @type {(cause: Cause | null, isContradicted: boolean) => string} */
  fewAtATime: (cause, isContradicted) => {
    const back = cause === 'unreachable' ? 'The metadata can be read again. ' : 'The fiber is back. '
    return `${isContradicted ? '' : back}Requests are admitted a few at a time.`
  },
  /** @type {(problem: Node) => Parts} */
  fiberUnknown: problem => ['The state of the fiber is unknown: ', problem, '.'],
  /** @type {(cause: Cause | null, median: Node, p90Ms: number, samples: number, confidence: Confidence) => Parts} */
  forecast: (cause, median, p90Ms, samples, confidence) => [
    'This outage is likely to last ',
    median,
    ` in total; one in ten lasts more than ${duration(p90Ms)}. `,
    `${CONFIDENCES[confidence]} ${counted(samples, 'earlier outage', 'earlier outages')}${FORECAST_CAUSES[cause ?? 'starting']}.`,
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
  newestFirst: 'Newest first',
  legend: LEGEND,
  /** @type {Record<Phase, string>} */
  phases: {
    ready: 'Ready',
    waiting: 'Waiting for fiber',
    unreachable: 'Metadata cannot be read',
    recovering: 'Recovering',
    starting: 'Starting',
    stopped: 'Stopped by an operator',
    maintenance: 'Planned maintenance',
    'let-through': 'Let through by an operator',
    'not-running': 'focus-breaker was not running',
  },
  /** @type {(words: string, readings: string) => string} */
  overReadings: (words, readings) => `${words} (readings: ${readings})`,
  /** @type {(state: string, from: string, durationMs: number) => string} */
  spanTip: (state, from, durationMs) => `${state}, from ${from}, ${duration(durationMs)}`,
  /** @type {(from: string, to: string, lasted: ReadonlyMap<Phase, number>, outages: number) => string} */
  statesLabel: (from, to, lasted, outages) => {
    const parts = [...lasted].map(([phase, ms]) => `${LEGEND[phase]} for ${duration(ms)}`)
    const number = outages === 0 ? 'no outage' : counted(outages, 'outage', 'outages')
    return `States from ${from} to ${to}: ${[...parts, number].join(', ')}.`
  },
  soFar: ' so far',
  refusedTitle: 'Refused requests per minute',
  wouldRefuseTitle: 'Requests that would have been refused, per minute',
  refusedAsTable: 'Refused requests as a table',
  none: 'none',
  /** @type {(sum: number, highest: number, at: string, since: string, wouldRefuse: number) => string} */
  refusedSum: (sum, highest, at, since, wouldRefuse) => {
    const observed = wouldRefuse === 0 ? '' : `; ${count(wouldRefuse)} more would have been refused`
    return `${count(sum)} since ${since}, at most ${count(highest)} in a minute, at ${at}${observed}`
  },
  /** @type {(title: string, from: string, to: string, words: string) => string} */
  chartLabel: (title, from, to, words) => `${title} from ${from} to ${to}: ${words}.`,
  /** @type {(at: string, refused: number, wouldRefuse: number) => string} */
  barTip: (at, refused, wouldRefuse) =>
    wouldRefuse === 0
      ? `${at}: ${count(refused)}`
      : `${at}: ${count(refused)} refused, ${count(wouldRefuse)} would have been refused`,
  wouldRefuse: 'Would have been refused',
  reports: 'Reports',
  report1: '24 hours',
  report7: '7 days',
  report30: '30 days',
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
  /** @type {(part: number, span: string) => string} */
  ofThem: (part, span) => `${count(part)} in ${span.charAt(0).toLowerCase()}${span.slice(1)}`,
  countRefused: 'refused',
  countWouldRefuse: 'would have been refused',
  countForwarded: 'forwarded',
  countInFlight: 'guarded, in progress',
  countWaiting: 'waiting to be admitted',
  countProbes: 'probes',
  countOverloaded: 'rejected: queue full',
  /** @type {(time: Node) => Parts} */
  countsSinceStart: time => [
    'Since the start of focus-breaker at ',
    time,
    '; a restart sets these numbers to 0.',
  ],
  /** @type {(time: Node) => Parts} */
  countsSince: time => ['Since ', time, ', over all restarts.'],
  /** @type {(name: Node, replicas: number, isProber: boolean) => Parts} */
  replicasJoined: (name, replicas, isProber) => [
    'Replica ',
    name,
    replicas === 1 ? '. No other replica is there.' : `, one of ${count(replicas)}.`,
    isProber && replicas > 1 ? ' It probes for all of them.' : '',
  ],
  /** @type {(name: Node, problem: Node) => Parts} */
  replicasAlone: (name, problem) => [
    'Replica ',
    name,
    ' does not reach the other replicas and goes on by its own readings: ',
    problem,
    '.',
  ],

  // Clients
  clientsTitle: 'Clients that keep asking',
  clientsAsTable: 'Table of the clients that keep asking',
  /** @param {number} minutes */
  clientsNone: minutes => `No client has repeated a refused request in the last ${minutes} minutes.`,
  /** @type {(time: Node, kept: boolean) => Parts} */
  clientsSince: (time, kept) => [
    kept ? 'Counted since ' : 'Counted since the start of focus-breaker at ',
    time,
    '.',
  ],
  /** @type {(time: Node, kept: boolean) => Parts} */
  noClientSince: (time, kept) => [
    kept ? 'No client has been refused since ' : 'No client has been refused since the start at ',
    time,
    '.',
  ],
  lastFirst: 'The latest first',
  /** @param {number} clients */
  otherClients: clients => `Other refused clients (${count(clients)})`,
  /** @param {number} more */
  moreClients: more => (more > 0 ? `${counted(more, 'more client is', 'more clients are')} not shown.` : ''),
  client: 'Client',
  attempts: 'Attempts',
  operations: 'Operations',
  interval: 'Interval',
  first: 'First',
  last: 'Last',
  otherAgents: 'other user agents of this address',
  noAgent: 'no user agent',
  /** @param {number | null} seconds */
  cadence: seconds =>
    seconds === null ? 'irregular' : seconds === 0 ? 'without a pause' : `every ${count(seconds)} s`,

  // Outages
  outagesTitle: 'Outages',
  outagesAsTable: 'Table of the outages',
  outagesNone: 'No outage is known.',
  began: 'Began',
  ended: 'Ended',
  cause: 'Cause',
  ongoing: 'ongoing',
  nextCause: ', then ',
  /** @type {(outages: number, since: Node, refused: number, wouldRefuse: number) => Parts} */
  outagesSum: (outages, since, refused, wouldRefuse) => [
    `${counted(outages, 'outage', 'outages')} since `,
    since,
    `. In them, ${refusedWords(refused, wouldRefuse)} Requests that an override refuses are only in the totals.`,
  ],

  // An outage that is open
  loading: 'Loading…',
  outageUnknown: 'The outage that the URL names is not kept any more.',
  outageNotKept: 'The details of this outage are not kept any more.',
  /** @param {string} cause */
  outageLabel: cause => `Details of the outage: ${cause}`,
  /** @type {(from: Node, to: Node | undefined, lasted: Node | string) => Parts} */
  outageSpan: (from, to, lasted) =>
    to === undefined ? ['Since ', from, ' (', lasted, ').'] : ['From ', from, ' to ', to, ' (', lasted, ').'],
  /** @type {(refused: number, wouldRefuse: number, operations: number) => string} */
  outageCounts: (refused, wouldRefuse, operations) => {
    const words = refusedWords(refused, wouldRefuse)
    if (refused + wouldRefuse === 0) return words
    return `${words} They came from ${counted(operations, 'distinct operation', 'distinct operations')}.`
  },
  /** @type {(spared: number, refused: number) => string} */
  outageSpared: (spared, refused) =>
    spared === 0
      ? 'They came while focus-server’s metadata could not be read, or just after.'
      : spared >= refused
        ? 'focus-server was up and was spared all of them.'
        : `focus-server was up and was spared ${count(spared)} of them; the others came while its metadata could not be read, or just after.`,
  whatHappened: 'What happened',
  /** @type {(reason: Node, by: Node, end: Parts) => Parts} */
  overrideIn: (reason, by, end) => [reason, '; set by ', by, ', until ', ...end],
  /** @type {(minutes: number, isObserved: boolean) => string} */
  refusedPer: (minutes, isObserved) => {
    const span = minutes === 1 ? 'per minute' : `per ${count(minutes)} minutes`
    return isObserved ? `Requests that would have been refused, ${span}` : `Refused requests ${span}`
  },
  /** @type {(heading: string, sum: number) => string} */
  sumLabel: (heading, sum) => `${heading}: ${count(sum)} in total.`,
  /** @param {number} value */
  atUnknownTime: value => `${counted(value, 'more request', 'more requests')} at a time that is not known.`,
  /** @param {number} value */
  omittedChanges: value => `${counted(value, 'change', 'changes')} in the middle are left out.`,
  clientsIn: 'Clients',
  others: 'other clients',
  runsIn: 'Test runs',
  run: 'Test run',
  otherRuns: 'other test runs',
  withoutRun: 'requests without a test run',
  letIn: 'Let back in during the recovery',
  letInNote: 'Guarded requests that were admitted before the circuit closed.',
  /** @param {number} more */
  moreLetIn: more => `${counted(more, 'more is', 'more are')} not shown.`,
  operation: 'Operation',
  /** @type {(json: Node, csv: Node) => Parts} */
  outageAs: (json, csv) => ['The same as ', json, ' or ', csv, '.'],

  // The report
  skipToReport: 'Skip to the report',
  reportLoading: 'Loading…',
  reportFailed: 'The report could not be loaded. Load this page again.',
  /** @param {number} days */
  reportTitle: days => (days === 1 ? 'The last 24 hours' : `The last ${count(days)} days`),
  /** @type {(from: Node, to: Node) => Parts} */
  reportPeriod: (from, to) => ['From ', from, ' to ', to, ' UTC'],
  print: 'Print',
  /** @param {string} part */
  percent: part => `${part} %`,
  reportAvailability: 'ready for jobs',
  reportWithout: 'waiting for fiber',
  reportAbsent: 'focus-server absent',
  reportOutages: 'outages',
  reportRefused: 'attempts refused',
  reportWouldRefuse: 'attempts that would have been refused',
  reportSaved: 'test time saved, estimated',
  /** @type {(observed: number, notRunning: number, since: Node | undefined) => Parts} */
  reportObserved: (observed, notRunning, since) => [
    `focus-breaker observed ${duration(observed)} of this period`,
    notRunning === 0 ? '' : ` and did not run for ${duration(notRunning)}`,
    '. Percentages are of the observed time.',
    ...(since === undefined ? [] : [' Nothing is known of the time before ', since, '.']),
  ],
  /** @type {(spans: readonly string[]) => string} */
  reportOtherPhases: spans => `Besides: ${spans.join(', ')}.`,
  reportNotKept: 'Without history.file this report begins with the start of focus-breaker.',
  /** @type {(link: Node | string, seconds: string, cause: string) => Parts} */
  reportLongestOutage: (link, length, cause) => [
    'The longest outage lasted ',
    length,
    ': ',
    link,
    `, ${cause}.`,
  ],
  reportUnderWay: ' It has not ended.',
  /** @type {(count: number, longest: string) => string} */
  reportAbsences: (value, longest) =>
    value === 0
      ? 'focus-server could be reached at every probe.'
      : `focus-server could not be reached ${counted(value, 'time', 'times')}, for ${longest} at the longest. Restarts count too.`,
  /** @type {(spared: number, refused: number) => string} */
  reportSpared: (spared, refused) =>
    `Of ${counted(refused, 'refused attempt', 'refused attempts')}, ${count(spared)} came while the fiber was missing and focus-server was up. It did not have to reject them.`,
  /** @type {(spared: number, each: number, measured: number) => string} */
  reportAssumption: (spared, each, measured) =>
    `Time saved: ${count(spared)} spared attempts times ${count(each)} s. This assumes that each of them would have taken as long as the median of the ${counted(measured, 'guarded request', 'guarded requests')} that focus-server answered in this period.`,
  reportNoSaved: 'The time saved is not estimated: focus-server answered no guarded request in this period.',
  reportByHour: 'By the hour',
  reportByDay: 'By the day (UTC)',
  reportHour: 'Hour',
  reportDay: 'Day',
  reportSum: 'In all',
  reportNotObserved: 'not observed',
  /** @type {(from: string, part: string | undefined) => string} */
  reportTip: (from, part) =>
    `${from}: ${part === undefined ? 'not observed' : `ready ${part} % of the time`}`,
  /** @type {(heading: string, part: string | undefined) => string} */
  reportChart: (heading, part) =>
    `${heading}: the time in each state. ${part === undefined ? 'Nothing was observed.' : `Ready ${part} % of the observed time.`}`,
  reportRowsTable: 'Table of the hours or days',
  reportCausesTable: 'Table of the causes',
  reportClientsTable: 'Table of the clients',
  reportRunsTable: 'Table of the test runs',
  reportCauses: 'Outages by cause',
  reportCount: 'Outages that began with it',
  reportInAll: 'Time in all',
  reportLongest: 'Longest without a break',
  reportClients: 'Refused attempts by client',
  reportRuns: 'Refused attempts by test run',
  /** @type {(json: Node, csv: Node) => Parts} */
  reportAs: (json, csv) => ['The same as ', json, ' or ', csv, '.'],
  /** @type {(at: Node) => Parts} */
  reportMade: at => ['Made by focus-breaker at ', at, '. Days and hours are of UTC.'],

  // The manual override
  operatorTitle: 'Manual override',
  notKept: 'An override that is set here ends when focus-breaker restarts.',
  noOverride: 'No override is set: the readings decide.',
  /** @type {(action: Node, until: Parts, reason: Node) => Parts} */
  standing: (action, until, reason) => [action, ' ', ...until, ': ', reason],
  action: 'Action',
  stop: 'Stop',
  stopChoice: 'Stop.',
  stopHint: 'Every guarded request is refused, even with a fiber. In mode observe it is only counted.',
  letAllThrough: 'Let all through',
  letThroughChoice: 'Let all through.',
  letThroughHint: 'No request is refused, even while the fiber is missing.',
  maintenanceChoice: 'Planned maintenance.',
  maintenanceHint: 'Like Stop, and no alert is sent.',
  reason: 'Reason',
  reasonHint: 'Every refused client and every visitor of this page can read it.',
  forMinutes: 'Duration in minutes',
  /** @param {string} time */
  endsAt: time => `ends at ${time}`,
  minutesInvalid: 'a whole number from 1 to 1440',
  token: 'Token',
  tokenHint: 'The configured admin.token. Only this page keeps it, until you close the page.',
  set: 'Set',
  setAt: 'Set',
  remove: 'Remove the override',
  earlierOverrides: 'Earlier overrides',
  /** @type {(time: Node, end: string | undefined, by: Node | undefined) => Parts} */
  overrideEnd: (time, end, by) => {
    const words = OVERRIDE_ENDS[end ?? ''] ?? ', as planned'
    return [time, words, ...(by === undefined || end === 'expired' ? [] : [' by ', by])]
  },
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
