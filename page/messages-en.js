/** @import { Formats } from './formats.js' */
/** @import { Cause, Phase } from './shapes.d.ts' */
/** @typedef {readonly (string | Node)[]} Parts */
/** @typedef {'low' | 'fair' | 'good'} Confidence */

/**
 * Every text of the pages, in English. To add a language, write a function with the same result and list it in
 * language.js.
 *
 * A text with elements in it (a time that keeps counting, a name from a client) is a function that takes the elements
 * and returns the parts of the sentence in their order.
 *
 * @typedef {ReturnType<typeof english>} Messages
 */

/** @param {Pick<Formats, 'count' | 'duration' | 'seconds' | 'plural'>} formats */
export const english = ({ count, duration, seconds, plural }) => {
  /** @param {number} value */
  const requests = value => plural(value, { one: '# request', other: '# requests' })
  /** @param {number} value */
  const outages = value => plural(value, { one: '# outage', other: '# outages' })

  /** @param {number} value */
  const theyCame = value => plural(value, { one: 'It came', other: 'They came' })

  /** @type {(refused: number, wouldRefuse: number) => string} */
  const refusedSentence = (refused, wouldRefuse) => {
    const words = `${plural(refused, { one: '# request was', other: '# requests were' })} refused`
    if (wouldRefuse === 0) return `${words}.`
    const observed = `${requests(wouldRefuse)} would have been refused`
    return refused === 0 ? `${observed}.` : `${words}; ${observed}.`
  }

  /** @type {Record<Phase | 'unknown', string>} */
  const legend = {
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
  /** @type {Record<Phase, string>} */
  const phases = {
    ready: 'Ready',
    waiting: 'Waiting for fiber',
    unreachable: 'Metadata cannot be read',
    recovering: 'Recovering',
    starting: 'Starting',
    stopped: 'Stopped by an operator',
    maintenance: 'Planned maintenance',
    'let-through': 'Let through by an operator',
    'not-running': 'focus-breaker was not running',
  }
  /** @type {Record<Cause, string>} */
  const forecastCauses = {
    waiting: ' with a missing fiber',
    unreachable: ' with unreadable metadata',
    starting: '',
  }
  /** @type {Record<Confidence, string>} */
  const confidences = {
    low: 'A rough estimate from only',
    fair: 'An estimate from',
    good: 'A good estimate from',
  }
  /** @type {Record<string, string>} */
  const overrideEnds = { expired: ', expired', removed: ', removed', replaced: ', replaced' }

  return {
    // Around the page
    languageName: 'English',
    languages: 'Language',
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
    machinesLabel: 'For programs',

    // The state
    clientsNode: 'clients',
    fiberNode: 'fiber',
    ready: 'Ready',
    waiting: 'Waiting for fiber',
    unreachable: 'focus-server’s metadata cannot be read',
    recovering: 'Recovering',
    recoveringNext: 'Recovering: waiting for one more successful probe',
    starting: 'Starting: no reading yet',
    // The two with a colon, inside a sentence that has one already.
    recoveringNextClause: 'Recovering, waiting for one more successful probe',
    startingClause: 'Starting, no reading yet',
    stopped: 'Stopped by an operator',
    maintenance: 'Planned maintenance',
    letThrough: 'Let through by an operator',
    /** @type {(time: Node, running: Node) => Parts} */
    since: (time, running) => ['since ', time, ' (', running, ')'],
    /** @type {(since: Parts) => Parts} */
    withinOutage: since => [', within an outage ', ...since],
    /** @type {(time: Node, running: Node) => Parts} */
    until: (time, running) => ['until ', time, ' (', running, ' left)'],
    /** @param {string} length */
    ago: length => `${length} ago`,
    observing: 'Observe mode: no request is refused',

    // What the states mean
    meaningTitle: 'What closed, open and recovering (half-open) mean',
    meaningClosed: 'Closed',
    meaningClosedIs:
      'The page shows “Ready”. The fiber is connected, and every request reaches focus-server. You can run your tests.',
    meaningOpen: 'Open',
    meaningOpenIs:
      'The page shows “Waiting for fiber”, or that focus-server’s metadata cannot be read. A guarded request, one that starts a job (POST /configure), gets a 503 at once and does not reach focus-server. All other requests are forwarded as usual. Nothing is wrong with your test: wait until the page shows “Ready”, then run it again.',
    meaningRecovering: 'Recovering (half-open)',
    meaningRecoveringIs:
      'The fiber is connected again. Guarded requests are admitted gradually, so that the waiting clients do not overload focus-server. Some requests still get a 503: retry them after the number of seconds in the Retry-After header, or wait until the page shows “Ready”.',
    meaningWhy:
      'The words come from electrical circuits: current flows through a closed circuit, not through an open one. An operator can override the state.',

    // The notes below the state
    allRefused: 'Every guarded request is refused, whatever the state of the fiber. ',
    allWouldBeRefused: 'Every guarded request would be refused, whatever the state of the fiber. ',
    noneRefused: 'No request is refused, whatever the state of the fiber. ',
    /** @type {(time: Node, by: Node, silent: boolean) => Parts} */
    overrideSetAt: (time, by, silent) => ['Set at ', time, ' by ', by, silent ? '. No alert is sent.' : '.'],
    /** @type {(headline: Node, since: Parts) => Parts} */
    readingsSay: (headline, since) => ['State according to the readings: ', headline, ', ', ...since, '.'],
    jobsCanStart: 'The fiber is connected. Jobs can start.',
    jobsMayStart: 'Requests are admitted.',
    full: 'Full at the moment:',
    fullWhy: ' the limit of guarded requests in progress is reached.',
    /** @type {(time: Node, durationMs: number, refused: number, wouldRefuse: number) => Parts} */
    lastOutage: (time, durationMs, refused, wouldRefuse) => [
      'The last outage ended at ',
      time,
      ` after ${duration(durationMs)}. ${refusedSentence(refused, wouldRefuse)}`,
    ],
    requests,
    noneRefusedYet: 'No request has been refused yet.',
    /** @type {(requests: Node, refused: number, spared: number, isUp: boolean) => Parts} */
    refusedAndSpared: (requestsNode, refused, spared, isUp) => [
      requestsNode,
      spared === 0
        ? ' refused.'
        : spared < refused
          ? ` refused, ${count(spared)} of them while focus-server was up.`
          : isUp
            ? ` refused. focus-server ${refused === 1 ? 'did not receive it' : 'received none of them'}.`
            : ` refused${refused === 1 ? '' : ', all of them'} while focus-server was up.`,
    ],
    /** @type {(since: Node) => Parts} */
    wouldRefuseNone: since => ['No request would have been refused since ', since, '.'],
    /** @type {(requests: Node, refused: number, since: Node, clients: number, more: boolean, option: Node) => Parts} */
    wouldHaveBeenRefused: (requestsNode, refused, since, clients, more, option) => [
      requestsNode,
      ' would have been refused since ',
      since,
      clients === 0
        ? ''
        : `, from ${more ? 'more than ' : ''}${plural(clients, { one: '# client', other: '# clients' })}`,
      `; ${refused === 1 ? 'it was' : 'all of them were'} forwarded to focus-server. To refuse such requests, set `,
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
      `${confidences[confidence]} ${plural(samples, { one: '# earlier outage', other: '# earlier outages' })}${forecastCauses[cause ?? 'starting']}.`,
    ],
    contradiction: 'focus-server contradicts itself:',
    /** @type {(since: Parts, fields: Node) => Parts} */
    contradictionWhy: (since, fields) => [
      ' its metadata shows a connected fiber, but its responses to configure report a missing one (',
      fields,
      '), ',
      ...since,
      '.',
    ],

    // The last hours
    /** @param {number} minutes */
    lastMinutes: minutes =>
      minutes < 60
        ? plural(minutes, { one: 'The last minute', other: 'The last # minutes' })
        : plural(minutes / 60, { one: 'The last hour', other: 'The last # hours' }),
    statesTitle: 'State',
    statesAsTable: 'States as a table',
    newestFirst: 'Newest first',
    legend,
    phases,
    /** @type {(words: string, readings: string) => string} */
    overReadings: (words, readings) => `${words} (readings: ${readings})`,
    /** @type {(state: string, from: string, durationMs: number) => string} */
    spanTip: (state, from, durationMs) => `${state}, from ${from}, ${duration(durationMs)}`,
    /** @type {(from: string, to: string, lasted: ReadonlyMap<Phase, number>, outages: number) => string} */
    statesLabel: (from, to, lasted, number) => {
      const parts = [...lasted].map(([phase, ms]) => `${legend[phase]} for ${duration(ms)}`)
      return `States from ${from} to ${to}: ${[...parts, number === 0 ? 'no outage' : outages(number)].join(', ')}.`
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
    lasted: 'Duration',
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
      configure: 'focus-server’s response to a configure request',
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
    countsSince: time => ['Since ', time, ', across restarts.'],
    /** @type {(name: Node, replicas: number, isProber: boolean) => Parts} */
    replicasJoined: (name, replicas, isProber) => [
      'Replica ',
      name,
      replicas === 1 ? ', the only one.' : `, one of ${count(replicas)}.`,
      isProber && replicas > 1 ? ' It probes for all of them.' : '',
    ],
    /** @type {(name: Node, problem: Node) => Parts} */
    replicasAlone: (name, problem) => [
      'Replica ',
      name,
      ' cannot reach the other replicas and uses only its own readings: ',
      problem,
      '.',
    ],

    // Clients
    clientsTitle: 'Clients that keep retrying',
    clientsAsTable: 'Table of the clients that keep retrying',
    /** @param {number} minutes */
    clientsNone: minutes =>
      plural(minutes, {
        one: 'No client has repeated a refused request in the last minute.',
        other: 'No client has repeated a refused request in the last # minutes.',
      }),
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
    lastFirst: 'Latest first',
    /** @param {number} clients */
    otherClients: clients => `Other refused clients (${count(clients)})`,
    /** @param {number} more */
    moreClients: more =>
      more > 0
        ? plural(more, { one: '# more client is not shown.', other: '# more clients are not shown.' })
        : '',
    client: 'Client',
    attempts: 'Attempts',
    operations: 'Operations',
    interval: 'Interval',
    first: 'First',
    last: 'Last',
    otherAgents: 'other user agents from this address',
    noAgent: 'no user agent',
    /** @param {number | null} interval */
    cadence: interval =>
      interval === null ? 'irregular' : interval === 0 ? 'without a pause' : `every ${seconds(interval)}`,

    // Outages
    outagesTitle: 'Outages',
    outagesAsTable: 'Table of the outages',
    outagesNone: 'No outages recorded.',
    began: 'Start',
    ended: 'End',
    cause: 'Cause',
    ongoing: 'ongoing',
    nextCause: ', then ',
    /** @type {(outages: number, since: Node, refused: number, wouldRefuse: number) => Parts} */
    outagesSum: (number, since, refused, wouldRefuse) => [
      `${outages(number)} since `,
      since,
      `. During outages, ${refusedSentence(refused, wouldRefuse)} Requests refused by an override count only in the totals.`,
    ],

    // An outage that is open on the page
    loading: 'Loading…',
    outageUnknown: 'The outage in the URL is no longer stored.',
    outageNotKept: 'The details of this outage are no longer stored.',
    /** @param {string} cause */
    outageLabel: cause => `Details of the outage: ${cause}`,
    /** @type {(from: Node, to: Node | undefined, lasted: Node | string) => Parts} */
    outageSpan: (from, to, lasted) =>
      to === undefined
        ? ['Since ', from, ' (', lasted, ').']
        : ['From ', from, ' to ', to, ' (', lasted, ').'],
    /** @type {(refused: number, wouldRefuse: number, operations: number) => string} */
    outageCounts: (refused, wouldRefuse, operations) => {
      const words = refusedSentence(refused, wouldRefuse)
      if (refused + wouldRefuse === 0) return words
      return `${words} ${theyCame(refused + wouldRefuse)} from ${plural(operations, { one: '# distinct operation', other: '# distinct operations' })}.`
    },
    /** @type {(spared: number, refused: number) => string} */
    outageSpared: (spared, refused) =>
      spared === 0
        ? `${theyCame(refused)} while focus-server’s metadata could not be read, or just after.`
        : spared >= refused
          ? `focus-server was up, and ${refused === 1 ? 'the request did not reach' : 'none of them reached'} it.`
          : `focus-server was up during ${count(spared)} of them, ${spared === 1 ? 'which did not reach' : 'and none of these reached'} it; ${refused - spared === 1 ? 'the other' : 'the others'} came while its metadata could not be read, or just after.`,
    whatHappened: 'What happened',
    /** @type {(reason: Node, by: Node, end: Parts) => Parts} */
    overrideIn: (reason, by, end) => [reason, '; set by ', by, ', until ', ...end],
    /** @type {(minutes: number, isObserved: boolean) => string} */
    refusedPer: (minutes, isObserved) => {
      const span = plural(minutes, { one: 'per minute', other: 'per # minutes' })
      return isObserved ? `Requests that would have been refused, ${span}` : `Refused requests ${span}`
    },
    /** @type {(heading: string, sum: number) => string} */
    sumLabel: (heading, sum) => `${heading}: ${count(sum)} in total.`,
    /** @param {number} value */
    atUnknownTime: value =>
      plural(value, {
        one: '# more request at an unknown time.',
        other: '# more requests at unknown times.',
      }),
    /** @param {number} value */
    omittedChanges: value =>
      plural(value, {
        one: '# change in the middle is left out.',
        other: '# changes in the middle are left out.',
      }),
    clientsIn: 'Clients',
    others: 'other clients',
    runsIn: 'Test runs',
    run: 'Test run',
    otherRuns: 'other test runs',
    withoutRun: 'requests without a test run',
    letIn: 'Admitted during the recovery',
    letInNote: 'Guarded requests that were admitted before the circuit closed.',
    /** @param {number} more */
    moreLetIn: more => plural(more, { one: '# more is not shown.', other: '# more are not shown.' }),
    operation: 'Operation',
    /** @type {(json: Node, csv: Node) => Parts} */
    dataAs: (json, csv) => ['Also as ', json, ' or ', csv, '.'],

    // The report
    skipToReport: 'Skip to the report',
    reportFailed: 'The report could not be loaded. Reload this page.',
    toPage: 'Current state',
    /** @param {number} days */
    reportTitle: days =>
      days === 1 ? 'The last 24 hours' : plural(days, { one: 'The last # day', other: 'The last # days' }),
    /** @type {(from: Node, to: Node) => Parts} */
    reportPeriod: (from, to) => ['From ', from, ' to ', to, ' UTC'],
    print: 'Print',
    reportAvailability: 'ready for jobs',
    reportWithout: 'waiting for fiber',
    reportAbsent: 'focus-server unreachable',
    reportOutages: 'outages',
    reportRefused: 'attempts refused',
    reportWouldRefuse: 'attempts that would have been refused',
    reportSaved: 'test time saved, estimated',
    /** @type {(observedMs: number, notRunningMs: number, since: Node | undefined) => Parts} */
    reportObserved: (observedMs, notRunningMs, since) => [
      `focus-breaker observed ${duration(observedMs)} of this period`,
      notRunningMs === 0 ? '' : ` and did not run for ${duration(notRunningMs)}`,
      '. Percentages are of the observed time.',
      ...(since === undefined ? [] : [' There is no data from before ', since, '.']),
    ],
    /** @type {(spans: readonly string[]) => string} */
    reportOtherPhases: spans => `Other states: ${spans.join(', ')}.`,
    reportNotKept: 'Without history.file, this report begins at the start of focus-breaker.',
    /** @type {(link: Node | string, length: string, cause: string) => Parts} */
    reportLongestOutage: (link, length, cause) => [
      `The longest outage lasted ${length}: `,
      link,
      `, ${cause}.`,
    ],
    reportUnderWay: ' It has not ended.',
    /** @type {(value: number, longest: string) => string} */
    reportAbsences: (value, longest) =>
      value === 0
        ? 'focus-server was reachable at every probe.'
        : `focus-server could not be reached ${plural(value, { one: '# time', other: '# times' })}, for ${longest} at most. Restarts count, too.`,
    /** @type {(spared: number, refused: number) => string} */
    reportSpared: (spared, refused) => {
      const when = 'while the fiber was missing and focus-server was up.'
      const one = 'The only refused attempt'
      if (spared === 0) {
        return `${plural(refused, { one: `${one} did not come`, other: 'None of the # refused attempts came' })} ${when}`
      }
      const which = refused === 1 ? one : `${count(spared)} of ${count(refused)} refused attempts`
      return `${which} came ${when} It did not have to reject ${spared === 1 ? 'this attempt' : 'them'}.`
    },
    /** @type {(spared: number, each: number, measured: number) => string} */
    reportAssumption: (spared, each, measured) => {
      const attempts = plural(spared, { one: '# attempt', other: '# attempts' })
      const model = plural(measured, {
        one: 'the only guarded request',
        other: 'the median of the # guarded requests',
      })
      return `Time saved: ${attempts} times ${seconds(each)}. This assumes that ${spared === 1 ? 'it' : 'each of them'} would have taken as long as ${model} that focus-server answered in this period.`
    },
    reportNoSaved:
      'The time saved is not estimated: focus-server answered no guarded request in this period.',
    reportByHour: 'By hour',
    reportByDay: 'By day (UTC)',
    reportHour: 'Hour',
    reportDay: 'Day',
    reportSum: 'Total',
    reportNotObserved: 'not observed',
    /** @type {(from: string, part: string | undefined) => string} */
    reportTip: (from, part) =>
      `${from}: ${part === undefined ? 'not observed' : `ready ${part} of the time`}`,
    /** @type {(heading: string, part: string | undefined) => string} */
    reportChart: (heading, part) =>
      `${heading}: the time in each state. ${part === undefined ? 'Nothing was observed.' : `Ready ${part} of the observed time.`}`,
    reportRowsTable: 'Table of the hours or days',
    reportCausesTable: 'Table of the causes',
    reportClientsTable: 'Table of the clients',
    reportRunsTable: 'Table of the test runs',
    reportCauses: 'Outages by cause',
    reportCount: 'Outages that started with this cause',
    reportInAll: 'Total duration',
    reportLongest: 'Longest period',
    reportClients: 'Refused attempts by client',
    reportRuns: 'Refused attempts by test run',
    /** @type {(at: Node) => Parts} */
    reportMade: at => ['Generated by focus-breaker at ', at, '. Days and hours are in UTC.'],

    // The manual override
    operatorTitle: 'Manual override',
    notKept: 'An override that is set here ends when focus-breaker restarts.',
    noOverride: 'No override is set: the readings decide.',
    /** @type {(action: Node, until: Parts, reason: Node) => Parts} */
    standing: (action, until, reason) => [action, ' ', ...until, ': ', reason],
    action: 'Action',
    stop: 'Stop',
    stopChoice: 'Stop.',
    stopHint: 'Every guarded request is refused, even with a fiber. In observe mode it is only counted.',
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
    tokenHint: 'The configured admin.token. Only this page keeps it, until you close or reload the page.',
    set: 'Set',
    setAt: 'Set',
    remove: 'Remove the override',
    earlierOverrides: 'Earlier overrides',
    /** @type {(time: Node, end: string | undefined, by: Node | undefined) => Parts} */
    overrideEnd: (time, end, by) => {
      const words = overrideEnds[end ?? ''] ?? ', as planned'
      return [time, words, ...(by === undefined || end === 'expired' ? [] : [' by ', by])]
    },
    override: 'Override',
    setBy: 'Set by',
    wrongToken: 'The token is wrong. Nothing was changed.',
    tooManyWrongTokens: 'Too many wrong tokens were sent, and this one is wrong, too. Nothing was changed.',
    noTokenConfigured: 'No token is configured any more, so nothing can be changed here.',
    /** @type {(why: Node | string) => Parts} */
    nothingChanged: why => ['Nothing was changed. ', why],
    /** @param {number} status */
    responseWas: status => `The response was ${status}.`,
    sending: 'Sending…',
    noResponse: 'No response. It is not known whether anything was changed: check the state above.',
    overrideSet: 'Override set.',
    overrideRemoved: 'Override removed. The readings decide again.',
  }
}
