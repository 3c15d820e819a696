import type { Page } from 'playwright-core'

/** Responses of the proxy's own routes, by name; for absent ones the page gets those of the running proxy. */
export type Fixtures = {
  readonly status?: object
  readonly history?: object
  readonly outages?: object
  readonly clients?: object
  readonly override?: object
  /** Details of outages, by id. */
  readonly details?: Readonly<Record<string, object>>
}

/**
 * Shows the page a history that a process of a few seconds does not have: the members of a fixture replace those that
 * the proxy sent.
 */
export async function fixPast(page: Page, fixtures: Fixtures): Promise<void> {
  const { details = {}, ...lists } = fixtures
  for (const [name, members] of Object.entries(lists)) {
    await page.route(new RegExp(`/-/${name}(\\?|$)`), async (route, request) => {
      if (request.method() !== 'GET') return await route.fallback()
      // The proxy may have stopped at the end of the test.
      const response = await route.fetch().catch(() => undefined)
      if (response === undefined) return await route.abort()
      await route.fulfill({ json: { ...Object(await response.json()), ...members } })
    })
  }
  await page.route(/\/-\/outages\/[\w-]+$/, route => {
    const found = details[new URL(route.request().url()).pathname.split('/').at(-1) ?? '']
    return found === undefined ? route.fulfill({ status: 404, json: {} }) : route.fulfill({ json: found })
  })
}

/** The time this many minutes ago, as in JSON. */
export const minutesAgo = (minutes: number) => new Date(Date.now() - minutes * 60_000).toISOString()

/** The id of an outage that started at a time: its start without punctuation. */
export const outageId = (startedAt: string) => startedAt.replace(/[-:.]/g, '')

/**
 * Two hours with everything in them: a missing fiber during which the server dies, an override of each kind, a time
 * without focus-breaker, and a recovery that fails once. The numbers in all responses agree.
 */
export function eventfulHours(): Fixtures & { readonly ids: readonly string[] } {
  const opened = minutesAgo(53)
  const [first, second] = [outageId(minutesAgo(150)), outageId(opened)] as const
  const states = [
    { from: minutesAgo(170), state: 'closed', cause: null, override: null },
    { from: minutesAgo(150), state: 'open', cause: 'waiting', override: null },
    { from: minutesAgo(140), state: 'half-open', cause: 'waiting', override: null },
    { from: minutesAgo(139), state: 'open', cause: 'waiting', override: null },
    { from: minutesAgo(131), state: 'half-open', cause: 'waiting', override: null },
    { from: minutesAgo(128), state: 'closed', cause: null, override: null },
    { from: minutesAgo(110), state: 'closed', cause: null, override: { state: 'open', silent: false } },
    { from: minutesAgo(98), state: 'closed', cause: null, override: { state: 'open', silent: true } },
    { from: minutesAgo(88), state: 'closed', cause: null, override: null },
    { from: minutesAgo(75), state: null, cause: null, override: null },
    { from: minutesAgo(66), state: 'closed', cause: null, override: null },
    { from: opened, state: 'open', cause: 'waiting', override: null },
    { from: minutesAgo(40), state: 'open', cause: 'waiting', override: { state: 'closed', silent: false } },
    { from: minutesAgo(28), state: 'open', cause: 'waiting', override: null },
    { from: minutesAgo(8), state: 'open', cause: 'unreachable', override: null },
  ]
  const refused = [...Array(12).keys(), ...Array.from({ length: 28 }, (_, index) => 25 + index)].map(
    index => ({
      minute: new Date(Math.floor(Date.now() / 60_000 - 53 + index) * 60_000).toISOString(),
      count: 20 + ((index * 7) % 13),
      wouldRefuse: 0,
    }),
  )
  const earlier = [
    { minute: minutesAgo(149), count: 150, wouldRefuse: 0 },
    { minute: minutesAgo(145), count: 160, wouldRefuse: 0 },
    { minute: minutesAgo(100), count: 41, wouldRefuse: 0 },
  ]
  const sum = refused.reduce((all, { count }) => all + count, 0)
  const spared = refused.slice(0, -8).reduce((all, { count }) => all + count, 0)
  const causes = [
    { cause: 'waiting', from: opened, to: minutesAgo(8) },
    { cause: 'unreachable', from: minutesAgo(8), to: null },
  ]
  const ongoing = {
    ...{ id: second, startedAt: opened, endedAt: null, seconds: 53 * 60, cause: 'unreachable', causes },
    openedBy: { kind: 'waiting', at: opened, source: 'probe', missing: ['prr'] },
    ...{
      closedBy: null,
      refused: sum,
      wouldRefuse: 0,
      spared,
      operations: 212,
      restarts: 0,
      unreachable: [],
    },
  }
  const over = {
    ...{
      id: first,
      startedAt: minutesAgo(150),
      endedAt: minutesAgo(128),
      seconds: 22 * 60,
      cause: 'waiting',
    },
    causes: [{ cause: 'waiting', from: minutesAgo(150), to: minutesAgo(128) }],
    openedBy: { kind: 'waiting', at: minutesAgo(150), source: 'configure', missing: ['prr', 'sw_version'] },
    closedBy: { kind: 'ready', at: minutesAgo(128), source: 'probe' },
    ...{ refused: 310, wouldRefuse: 0, spared: 310, operations: 44, restarts: 0, unreachable: [] },
  }
  const suite = { address: '192.0.2.17', userAgent: 'Focus-Server-Automation/1.0.0' }
  const desktop = { address: '192.0.2.40', userAgent: 'focus-desktop/4.2 (Windows NT 10.0; Win64; x64)' }
  const reading = (kind: string, minutes: number, more: object) => ({
    ...{ kind, at: minutesAgo(minutes), source: 'probe' },
    ...more,
  })
  const details = {
    [second]: {
      ...ongoing,
      changes: [
        {
          at: opened,
          state: 'open',
          cause: 'waiting',
          reading: reading('waiting', 53, { missing: ['prr'] }),
        },
        {
          ...{ at: minutesAgo(8), state: 'open', cause: 'unreachable' },
          reading: reading('unreachable', 8, { problem: 'connection refused' }),
        },
      ],
      minutes: {
        spanMinutes: 1,
        counts: refused.map(({ minute, count, wouldRefuse }) => ({ minute, refused: count, wouldRefuse })),
        unknown: { refused: 0, wouldRefuse: 0 },
      },
      clients: [
        { ...suite, refused: sum - 90, wouldRefuse: 0, first: minutesAgo(52), last: minutesAgo(0) },
        { ...desktop, refused: 60, wouldRefuse: 0, first: minutesAgo(50), last: minutesAgo(0) },
      ],
      otherClients: { refused: 30, wouldRefuse: 0 },
      runs: [{ run: 'nightly-118', refused: 200, wouldRefuse: 0 }],
      otherRuns: { refused: 0, wouldRefuse: 0 },
      withoutRun: { refused: sum - 200, wouldRefuse: 0 },
      ...{ letIn: [], letInTotal: 0 },
    },
    [first]: {
      ...over,
      changes: [
        { at: over.startedAt, state: 'open', cause: 'waiting', reading: over.openedBy },
        { at: minutesAgo(140), state: 'half-open', cause: 'waiting', reading: reading('ready', 140, {}) },
        {
          ...{ at: minutesAgo(139), state: 'open', cause: 'waiting' },
          reading: { ...reading('waiting', 139, { missing: ['prr'] }), source: 'configure' },
        },
        { at: minutesAgo(131), state: 'half-open', cause: 'waiting', reading: reading('ready', 131, {}) },
        { at: minutesAgo(128), state: 'closed', cause: null, reading: reading('ready', 128, {}) },
      ],
      minutes: {
        spanMinutes: 1,
        counts: [
          { minute: minutesAgo(149), refused: 150, wouldRefuse: 0 },
          { minute: minutesAgo(145), refused: 150, wouldRefuse: 0 },
        ],
        unknown: { refused: 10, wouldRefuse: 0 },
      },
      clients: [{ ...suite, refused: 310, wouldRefuse: 0, first: minutesAgo(149), last: minutesAgo(144) }],
      otherClients: { refused: 0, wouldRefuse: 0 },
      ...{ runs: [], otherRuns: { refused: 0, wouldRefuse: 0 } },
      letIn: [
        { at: minutesAgo(140), ...suite, run: 'nightly-118', operation: 'POST /configure' },
        { at: minutesAgo(130), ...desktop, run: null, operation: 'POST /configure' },
      ],
      letInTotal: 72,
    },
  }
  const past = (minutes: number, lasted: number, more: object) => ({
    ...{ since: minutesAgo(minutes), until: minutesAgo(minutes - 30), by: '192.0.2.9', silent: false },
    ...{ endedAt: minutesAgo(minutes - lasted), ...more },
  })
  const attempts = (minutes: number, more: object) => ({
    ...{ first: minutesAgo(52), last: minutesAgo(minutes), wouldRefuse: 0, cadenceSeconds: null },
    ...more,
  })
  return {
    ids: [second, first],
    status: {
      name: 'fiber lab 2',
      circuit: { state: 'open', since: minutesAgo(8), cause: 'unreachable', outageStartedAt: opened },
      ...{ admits: false, refusal: 'metadata_unavailable', retryAfterSeconds: 4, override: null },
      reading: {
        ...{
          kind: 'unreachable',
          at: minutesAgo(0),
          ageMs: 300,
          source: 'probe',
          problem: 'connection refused',
        },
        streak: 240,
      },
      outage: { startedAt: opened, refused: sum, wouldRefuse: 0, spared, operations: 212 },
      forecast: { cause: 'unreachable', p50Seconds: 900, p90Seconds: 5400, samples: 6, confidence: 'low' },
      disagreement: null,
      totals: {
        ...{ forwarded: 90_120, refused: sum + 310 + 41, wouldRefuse: 0, probes: 5123, overloaded: 0 },
        ...{ since: minutesAgo(170), kept: true },
      },
    },
    history: {
      from: minutesAgo(170),
      since: minutesAgo(170),
      kept: true,
      states,
      refused: [...earlier, ...refused],
    },
    outages: { outages: [ongoing, over], unreachable: [] },
    clients: {
      ...{ total: 3, since: minutesAgo(170), kept: true },
      clients: [
        attempts(0, { ...suite, attempts: sum - 90, operations: 190, cadenceSeconds: 1 }),
        attempts(1, { ...desktop, attempts: 60, operations: 20, cadenceSeconds: 4 }),
        attempts(40, { address: '192.0.2.77', userAgent: 'curl/8.5.0', attempts: 1, operations: 1 }),
      ],
    },
    override: {
      ...{ override: null, changeable: true, kept: true },
      history: [
        past(40, 12, { state: 'closed', reason: 'the sensor lies', end: 'removed', endedBy: '192.0.2.9' }),
        past(98, 10, { state: 'open', silent: true, reason: 'laser service', end: 'expired', endedBy: null }),
        past(110, 12, { state: 'open', reason: 'fiber work', end: 'replaced', endedBy: '192.0.2.10' }),
      ],
    },
    details,
  }
}
