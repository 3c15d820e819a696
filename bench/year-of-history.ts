import { rfc3339 } from '../src/domain/time.js'
import { HEADER, historyLine } from '../src/outages/history-text.js'

const OUTAGES = 10_000
const YEAR_MS = 365 * 86_400_000

/** The lines of the history file of a year: 10,000 outages, their clients, and every minute of six hours. */
export function* yearOfHistory(now: number): Iterable<string> {
  const line = (kind: string, key: string, record: object) => historyLine(new Map([[kind, [[key, record]]]]))
  yield HEADER
  for (let index = 0; index < OUTAGES; index += 1) {
    const at = rfc3339(now - YEAR_MS + (index * YEAR_MS) / OUTAGES)
    const to = rfc3339(Date.parse(at) + 300_000)
    const kind = index % 3 === 0 ? 'unreachable' : 'waiting'
    const what = kind === 'waiting' ? { missing: ['prr', 'sw_version'] } : { problem: 'connection refused' }
    yield line('outage', at, {
      ...{ startedAt: at, endedAt: to, cause: kind, causeSince: at },
      openedBy: { kind, at, source: 'probe', ...what },
      closedBy: { kind: 'ready', at: to, source: 'probe' },
      ...{ refused: 480, wouldRefuse: 0, operations: 12, spared: 480, restarts: 0 },
    })
  }
  for (let index = 0; index < 1000; index += 1) {
    const from = rfc3339(now - YEAR_MS + index * 1000)
    yield line('unreachable', from, { from, to: from, problem: 'connection refused' })
    const address = `192.0.2.${index}`
    const times = { first: from, last: from, attempts: 40, operations: 9, intervals: [1000, 2000, 1500] }
    yield line('client', JSON.stringify([address, 'python-requests/2.32']), {
      ...{ address, userAgent: 'python-requests/2.32', ...times },
    })
    yield line('run', `run-${index}`, { forwarded: 10, refused: 30, first: from, last: from })
    const state = { from, state: 'open', cause: 'waiting', override: null }
    yield line('state', from, state)
  }
  for (let index = 0; index < 360; index += 1) {
    const minute = rfc3339(Math.floor(now / 60_000 - index) * 60_000)
    yield line('minute', minute, { minute, refused: 100, wouldRefuse: 0 })
  }
}
