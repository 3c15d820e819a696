import { bdi, cell, element, number, put, row, rowHead, running, show, strong, time } from './dom.js'
import { clockWithSeconds, count, timeZone } from './format.js'
import { text } from './messages.js'
import { causeWords } from './past.js'
import { known } from './state.js'

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
      const decided = reading.missing.flatMap((name, index) => {
        const value = reading.metadata?.[name]
        const words = value === undefined ? undefined : value === null ? 'null' : bdi(JSON.stringify(value))
        return [index > 0 ? '; ' : '', ...text.fieldIs(element('code', {}, bdi(name)), words)]
      })
      fact(text.decidedBy, ...decided)
    }
    if (reading.problem !== undefined) fact(text.problem, bdi(reading.problem))
    fact(
      text.time,
      time(reading.at, clockWithSeconds(Date.parse(reading.at))),
      ' (',
      running(reading.at, 'ago'),
      ')',
    )
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
  ]
  if (totals.overloaded > 0) counts.push([text.countOverloaded, totals.overloaded])
  put(
    'counts',
    ...counts.map(([term, value]) =>
      element('div', {}, element('dt', {}, term), element('dd', {}, count(value))),
    ),
  )
  put('counts-since', ...text.countsSince(time(startedAt)))
  put('about', ...text.about(bdi(version), bdi(timeZone)))
}

/** Draws the card with the refused clients. */
export const drawClients = () => {
  if (known.clients === null) return
  const { clients, total } = known.clients
  show('clients-card', true)
  show('clients', clients.length > 0)
  show('clients-none', clients.length === 0)
  put('clients-none', known.status?.mode === 'observe' ? text.clientsNoneObserving : text.clientsNone)
  put('clients-caption', text.clientsCaption(total - clients.length))
  put(
    'clients-rows',
    ...clients.map(client => {
      const { userAgent } = client
      const agent = userAgent === null ? text.otherAgents : userAgent === '' ? text.noAgent : bdi(userAgent)
      const head = rowHead(agent)
      head.className = 'agent'
      return row(
        head,
        cell(bdi(client.address)),
        number(client.attempts),
        number(client.operations),
        cell(text.cadence(client.cadenceSeconds)),
        cell(time(client.first)),
        cell(
          time(client.last, clockWithSeconds(Date.parse(client.last))),
          ' (',
          running(client.last, 'ago'),
          ')',
        ),
      )
    }),
  )
}

/** Draws the card with the outages. */
export const drawOutages = () => {
  if (known.outages === null) return
  const { outages } = known.outages
  show('outages-card', true)
  show('outages', outages.length > 0)
  show('outages-none', outages.length === 0)
  put(
    'outages-rows',
    ...outages.map(({ startedAt, endedAt, seconds, cause, openedBy, refused, operations }) => {
      const { missing } = openedBy
      const fields = missing === undefined ? [] : [' (', element('code', {}, bdi(missing.join(', '))), ')']
      const made = row(
        rowHead(time(startedAt)),
        endedAt === null ? cell(element('span', { class: 'mark' }, text.ongoing)) : cell(time(endedAt)),
        endedAt === null ? cell(running(startedAt, 'for')) : cell(text.duration(seconds * 1000)),
        cell(causeWords(cause), ...fields),
        number(refused),
        number(operations),
      )
      if (endedAt === null) made.className = 'now'
      return made
    }),
  )
}
