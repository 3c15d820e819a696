/** @import { Counts, Phase, Report, ReportRow } from './shapes.d.ts' */
import {
  $,
  bdi,
  cell,
  element,
  noteOverflow,
  number,
  observed,
  put,
  row,
  rowHead,
  show,
  svg,
  time,
} from './dom.js'
import { formats, inLanguage, text, writeTexts } from './language.js'
import { clientHead } from './outage.js'
import { PHASES } from './phases.js'

const DAYS = [1, 7, 30, 90]
const DEFAULT_DAYS = 30
const TIMEOUT_MS = 15_000
const HOUR_MS = 3_600_000
const CHART_WIDTH = 960
const CHART_HEIGHT = 120
/** The chart has room for this many labels. */
const MAX_LABELS = 8

const { count, duration, percent, utc } = formats

/** @param {number} seconds */
const lasted = seconds => duration(seconds * 1000)

/** A duration in a table: zero is a dash. @param {number} seconds */
const lengthCell = seconds => element('td', { class: 'number' }, seconds === 0 ? '–' : lasted(seconds))

/** @type {(iso: string, words: (at: number) => string) => Node} */
const timeOf = (iso, words) => element('time', { datetime: iso, title: iso }, words(Date.parse(iso)))

/** @param {ReportRow} of */
const isHour = ({ from, to }) => Date.parse(to) - Date.parse(from) <= HOUR_MS

/** @param {readonly ReportRow[]} rows */
const isByHour = rows => rows.slice(0, -1).every(isHour) && rows.length > 1

/** @param {Report} report */
const drawHead = report => {
  const { name, from, to, days, availability, outages, absences, attempts, saved } = report
  const title = text.reportTitle(days)
  document.title = text.title(title, name)
  put('report-title', title)
  put('name', bdi(name))
  show('name', true)
  put(
    'period',
    ...text.reportPeriod(
      time(from, utc.dayAndClock(Date.parse(from))),
      time(to, utc.dayAndClock(Date.parse(to))),
    ),
  )
  const { ready } = availability
  /** @type {(value: string, words: string) => Node} */
  const figure = (value, words) => element('div', {}, element('dt', {}, words), element('dd', {}, value))
  put(
    'figures',
    figure(ready === null ? '–' : percent(ready), text.reportAvailability),
    figure(lasted(availability.secondsBy.waiting), text.reportWithout),
    figure(lasted(absences.seconds), text.reportAbsent),
    figure(count(outages.count), text.reportOutages),
    figure(count(attempts.refused), text.reportRefused),
    attempts.wouldRefuse > 0
      ? figure(count(attempts.wouldRefuse), text.reportWouldRefuse)
      : figure(saved === null ? '–' : lasted(saved.seconds), text.reportSaved),
  )
  show('figures-part', true)
}

/** The phases of the observed time that no figure shows. */
const OTHER_PHASES = /** @type {const} */ ([
  'starting',
  'recovering',
  'stopped',
  'maintenance',
  'let-through',
])

/** @param {Report} report */
const drawNotes = report => {
  const { availability, outages, absences, attempts, saved, since, from, kept } = report
  const { observedSeconds, notRunningSeconds } = report
  const { longest } = outages
  const isLater = Date.parse(since) > Date.parse(from)
  const sinceTime = isLater ? time(since, `${utc.dayAndClock(Date.parse(since))} UTC`) : undefined
  /** @type {(readonly (string | Node)[])[]} */
  const notes = [text.reportObserved(observedSeconds * 1000, notRunningSeconds * 1000, sinceTime)]
  const others = OTHER_PHASES.filter(phase => availability.secondsBy[phase] > 0)
  if (others.length > 0) {
    const spans = others.map(phase => `${text.legend[phase]} ${lasted(availability.secondsBy[phase])}`)
    notes.push([text.reportOtherPhases(spans)])
  }
  if (!kept) notes.push([text.reportNotKept])
  if (longest !== null) {
    const link = element(
      'a',
      { href: inLanguage(`./#outage-${longest.id}`) },
      timeOf(longest.startedAt, utc.dayAndClock),
    )
    const cause = text.legend[longest.cause]
    notes.push([
      ...text.reportLongestOutage(link, lasted(longest.seconds), cause),
      longest.endedAt === null ? text.reportUnderWay : '',
    ])
  }
  if (observedSeconds > 0) notes.push([text.reportAbsences(absences.count, lasted(absences.longestSeconds))])
  if (attempts.refused > 0) {
    notes.push([text.reportSpared(attempts.spared, attempts.refused)])
    notes.push([
      saved === null
        ? text.reportNoSaved
        : text.reportAssumption(saved.basis.spared, saved.perAttemptSeconds, saved.basis.measured),
    ])
  }
  put('notes', ...notes.map(parts => element('p', {}, ...parts)))
}

/** @param {Report} report */
const drawRows = ({ buckets, availability, attempts, outages, absences }) => {
  const byHour = isByHour(buckets)
  const heading = byHour ? text.reportByHour : text.reportByDay
  put('rows-title', heading)
  const words = byHour ? utc.clock : utc.weekday
  const { ready, secondsBy } = availability
  drawChart(buckets, heading, words, ready)
  const shown = PHASES.filter(phase => secondsBy[phase] > 0)
  put(
    'legend',
    ...shown.map(phase =>
      element(
        'li',
        {},
        svg(
          'svg',
          { 'aria-hidden': 'true', focusable: 'false' },
          svg('rect', { class: `is-${phase}`, width: 22, height: 12 }),
        ),
        element('span', {}, text.legend[phase]),
      ),
    ),
  )
  const heads = [
    byHour ? text.reportHour : text.reportDay,
    ...[
      text.reportAvailability,
      text.reportWithout,
      text.reportAbsent,
      text.reportOutages,
      text.reportRefused,
    ],
  ]
  put(
    'rows-heads',
    ...heads.map((head, index) =>
      element('th', { scope: 'col', ...(index > 0 && { class: 'number' }) }, head),
    ),
    element('th', { scope: 'col', class: 'number observed' }, text.wouldRefuse),
  )
  /** @type {(head: Node, part: number | null, of: { waiting: number, absent: number, outages: number } & Counts) => Node} */
  const line = (head, part, of) =>
    row(
      head,
      element('td', { class: 'number' }, part === null ? text.reportNotObserved : percent(part)),
      ...[lengthCell(of.waiting), lengthCell(of.absent), number(of.outages), number(of.refused)],
      observed(of.wouldRefuse),
    )
  put(
    'rows',
    ...[...buckets].reverse().map(bucket =>
      line(rowHead(timeOf(bucket.from, byHour ? utc.dayAndClock : utc.weekday)), bucket.availability, {
        ...{ waiting: bucket.secondsBy.waiting, absent: bucket.absenceSeconds, outages: bucket.outages },
        ...{ refused: bucket.refused, wouldRefuse: bucket.wouldRefuse },
      }),
    ),
  )
  put(
    'rows-sum',
    line(rowHead(text.reportSum), ready, {
      ...{ waiting: secondsBy.waiting, absent: absences.seconds, outages: outages.count },
      ...{ refused: attempts.refused, wouldRefuse: attempts.wouldRefuse },
    }),
  )
  show('rows-card', true)
}

/**
 * Draws a column for each row: the time in each state, from the bottom up. Unknown time stays empty.
 *
 * @type {(rows: readonly ReportRow[], heading: string, words: (at: number) => string, ready: number | null) => void}
 */
const drawChart = (rows, heading, words, ready) => {
  const chart = $('chart')
  const longest = isByHour(rows) ? HOUR_MS / 1000 : (24 * HOUR_MS) / 1000
  const width = CHART_WIDTH / rows.length
  const gap = width > 6 ? 2 : 0
  chart.setAttribute('viewBox', `0 0 ${CHART_WIDTH} ${CHART_HEIGHT}`)
  chart.setAttribute('aria-label', text.reportChart(heading, ready === null ? undefined : percent(ready)))
  chart.replaceChildren(
    ...rows.map((bucket, index) => {
      const { from, availability, secondsBy } = bucket
      const tip = text.reportTip(
        words(Date.parse(from)),
        availability === null ? undefined : percent(availability),
      )
      const place = { x: index * width, width: width - gap }
      let top = CHART_HEIGHT
      /** @type {(phase: Phase) => readonly Element[]} */
      const part = phase => {
        if (secondsBy[phase] === 0) return []
        // Even a very short outage must be visible.
        const height = Math.max(phase === 'ready' ? 0 : 2, (secondsBy[phase] / longest) * CHART_HEIGHT)
        top -= height
        return [
          svg('rect', {
            class: `is-${phase}`,
            ...place,
            y: Math.max(0, top),
            height: Math.min(height, CHART_HEIGHT),
          }),
        ]
      }
      return svg(
        'g',
        {},
        svg('title', {}, tip),
        svg('rect', { class: 'ground', ...place, y: 0, height: CHART_HEIGHT }),
        ...[...PHASES].flatMap(part),
      )
    }),
  )
  const every = Math.ceil(rows.length / MAX_LABELS)
  $('chart-axis').replaceChildren(
    ...rows.flatMap((bucket, index) => {
      if (index % every !== Math.floor(every / 2)) return []
      const label = element('span', {}, words(Date.parse(bucket.from)))
      // The content security policy forbids style attributes, but not the style object.
      label.style.insetInlineStart = `${((index + 0.5) / rows.length) * 100}%`
      return [label]
    }),
  )
}

/** @param {Report} report */
const drawTables = ({ outages, attempts }) => {
  const { byCause } = outages
  put(
    'causes',
    .../** @type {const} */ (['waiting', 'unreachable']).map(cause =>
      row(
        rowHead(text.phases[cause]),
        ...[
          number(byCause[cause].count),
          lengthCell(byCause[cause].seconds),
          lengthCell(byCause[cause].longestSeconds),
        ],
      ),
    ),
  )
  show('causes-card', true)
  const { clients, otherClients, runs, otherRuns, withoutRun } = attempts
  const none = attempts.refused + attempts.wouldRefuse === 0
  /** @type {(words: string, of: Counts, cells: number) => readonly Node[]} */
  const rest = (words, of, cells) =>
    of.refused + of.wouldRefuse === 0
      ? []
      : [
          row(
            rowHead(words),
            number(of.refused),
            observed(of.wouldRefuse),
            ...Array.from({ length: cells }, () => cell()),
          ),
        ]
  put(
    'clients',
    ...clients.map(client =>
      row(
        ...[clientHead(client), number(client.refused), observed(client.wouldRefuse)],
        ...[cell(timeOf(client.first, utc.dayAndClock)), cell(timeOf(client.last, utc.dayAndClock))],
      ),
    ),
    ...rest(text.others, otherClients, 2),
  )
  put(
    'runs',
    ...runs.map(({ run, ...of }) => row(rowHead(bdi(run)), number(of.refused), observed(of.wouldRefuse))),
    ...rest(text.otherRuns, otherRuns, 0),
    ...rest(text.withoutRun, withoutRun, 0),
  )
  show('clients-card', !none)
  show('runs-card', runs.length > 0)
  // The column is shown only if observe mode was on.
  document.body.classList.toggle('observes', attempts.wouldRefuse > 0)
}

/** @param {number} days */
const drawLinks = days => {
  const print = element('button', { type: 'button' }, text.print)
  print.addEventListener('click', () => globalThis.print())
  put(
    'periods',
    ...DAYS.map(each =>
      element(
        'a',
        { href: inLanguage(`report?days=${each}`), ...(each === days && { 'aria-current': 'page' }) },
        text.reportTitle(each),
      ),
    ),
  )
  $('periods').append(print)
  const json = element('a', { href: `report?days=${days}&format=json` }, 'JSON')
  const csv = element('a', { href: `report?days=${days}&format=csv` }, 'CSV')
  put('as', ...text.dataAs(json, csv))
}

const start = async () => {
  writeTexts()
  const days = Number(new URLSearchParams(location.search).get('days') ?? DEFAULT_DAYS)
  drawLinks(days)
  put('report-title', text.reportTitle(days))
  put('period', text.loading)
  try {
    const signal = AbortSignal.timeout(TIMEOUT_MS)
    const response = await fetch(`report?days=${days}&format=json`, { signal, cache: 'no-store' })
    if (!response.ok) throw new Error(text.responseWas(response.status))
    /** @type {Report} */
    const report = await response.json()
    drawHead(report)
    drawNotes(report)
    drawRows(report)
    drawTables(report)
    noteOverflow()
    put('about', ...text.reportMade(timeOf(report.to, utc.dateAndClock)))
  } catch (error) {
    console.error(error)
    put('period', text.reportFailed)
  }
}

addEventListener('resize', noteOverflow)
start()
