import { setTimeout as sleep } from 'node:timers/promises'
import { request } from 'undici'
import { buildApp } from '../app.js'
import { load } from '../config/load.js'
import { createLogger } from '../observability/logger.js'
import { type Simulator, startSimulator } from '../simulator/focus-server.js'
import { parseScenario } from '../simulator/scenario.js'
import type { Arguments, Flag } from './arguments.js'
import { listen } from './serve.js'
import { signals } from './signals.js'
import { stdout } from './standard-streams.js'
import { usage } from './usage.js'
import { version } from './version.js'

/** The flags of `demo`. */
export const DEMO_FLAGS: readonly Flag[] = [
  { name: 'host', value: 'ADDRESS', sentence: 'address to listen on (default: 127.0.0.1)' },
  {
    name: 'port',
    value: 'NUMBER',
    sentence: 'port of the proxy (default: 8080, or any free port if 8080 is in use)',
  },
]

/** The first outage begins after 20 seconds, so that people need not wait for it long; the scenario then repeats. */
const SCENARIO = '+20-30~5+25'

/** Public, because it protects only a simulated focus-server; with it, the documents can show how to set an override. */
const ADMIN_TOKEN = 'focus-breaker-demo'

/** How often a summary line is written. */
const SUMMARY_MS = 5000

const LIVE_JOB = JSON.stringify({
  displayTimeAxisDuration: 30,
  nfftSelection: 1024,
  displayInfo: { height: 200 },
  channels: { min: 11, max: 109 },
  frequencyRange: { min: 0, max: 1000 },
  start_time: null,
  end_time: null,
  view_type: '0',
})

/** Runs the proxy, a simulated focus-server and a few clients until a signal stops them. Returns the exit code. */
export async function demo(args: Arguments): Promise<number> {
  const parsed = parseScenario(SCENARIO)
  if (!parsed.ok) throw new Error(`invalid demo scenario: expected ${parsed.fault.expected}`)
  const simulator = await startSimulator({
    scenario: parsed.scenario,
    latency: 'realistic',
    jobDurationMs: 10_000,
  })
  stdout.write(`focus-breaker ${version}, demo. Lines that begin with a time are its log.\n`)
  const proxy = await startProxy(simulator.url, args)
  if ('faults' in proxy) {
    await simulator.close()
    return usage(proxy.faults)
  }
  const { app, url } = proxy
  stdout.write(introduction(url, simulator.url))
  const stopped = new AbortController()
  const clients = [
    new DemoClient('desktop app', 3500, '/configure', url),
    new DemoClient('test suite', 1000, '/configure', url),
    new DemoClient('load test', 250, '/channels', url),
  ]
  const running = clients.map(client => client.run(stopped.signal))
  const summary = setInterval(() => writeSummary(clients, simulator), SUMMARY_MS)
  signals.stopAtHangup()
  await signals.stop()
  clearInterval(summary)
  stopped.abort()
  await Promise.all(running)
  await app.close()
  await simulator.close()
  return 0
}

/** Starts the proxy on its usual port. If that port is in use and no port was requested, it uses a free one. */
async function startProxy(upstream: string, args: Arguments) {
  const asked = args.flags.get('port')
  for (const port of asked === undefined ? ['8080', '0'] : [asked]) {
    const flags = new Map([
      ['upstream.url', { flag: 'demo', value: upstream }],
      ['server.host', { flag: '--host', value: args.flags.get('host') ?? '127.0.0.1' }],
      ['server.port', { flag: '--port', value: port }],
      ['log.format', { flag: 'demo', value: 'pretty' }],
      ['admin.token', { flag: 'demo', value: ADMIN_TOKEN }],
    ])
    const loaded = load({ environment: {}, flags })
    if (!loaded.ok || args.faults.length > 0)
      return { faults: [...args.faults, ...(loaded.ok ? [] : loaded.faults)] }
    const log = createLogger({ ...loaded.config.log, hideFields: true, destination: stdout })
    const { app } = buildApp(loaded.config, log, version)
    const urls = await listen(app, loaded.config)
    if (!('option' in urls)) return { app, url: urls[0] ?? '' }
    await app.close()
    if (port === '8080' && asked === undefined) stdout.write('Port 8080 is in use; using a free port.\n')
    if (port !== '8080' || asked !== undefined) return { faults: [urls] }
  }
  return { faults: [] }
}

function introduction(url: string, simulatorUrl: string): string {
  return `
${url} is the proxy in front of a simulated focus-server (${simulatorUrl}).
The simulated fiber is connected for 20 seconds, missing for about 35, connected for about 45, and so on. Three simulated
clients send requests all the time: a desktop app and a test suite that configure jobs, and a load test that reads
/channels.

Open ${url}/-/ in a browser, or try:
  curl -s ${url}/-/status
  curl -s -H "Accept: text/plain" ${url}/-/fiber
  curl -s ${url}/live_metadata
  curl -si -X POST ${url}/configure -d "{}"
The last one gets 503 while the fiber is missing, and 422 otherwise, because its job is empty.

Press Ctrl+C to stop. A summary every ${SUMMARY_MS / 1000} seconds:
`
}

/** A client that calls focus-server again and again, as its real clients do, and counts the outcomes. */
class DemoClient {
  readonly #name: string
  readonly #everyMs: number
  readonly #path: string
  readonly #url: string
  readonly #outcomes = new Map<string, number>()

  constructor(name: string, everyMs: number, path: string, url: string) {
    this.#name = name
    this.#everyMs = everyMs
    this.#path = path
    this.#url = url
  }

  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const outcome = await this.#call(signal)
      if (outcome !== undefined) this.#outcomes.set(outcome, (this.#outcomes.get(outcome) ?? 0) + 1)
      // An aborted wait ends the loop by its condition.
      await sleep(this.#everyMs, undefined, { signal }).catch(() => undefined)
    }
  }

  /** Returns a text such as "desktop app: 2 refused", and resets the counts. */
  summary(): string {
    const parts = [...this.#outcomes].map(([what, times]) => `${times} ${what}`)
    this.#outcomes.clear()
    return `${this.#name}: ${parts.join(', ') || 'nothing'}`
  }

  async #call(signal: AbortSignal): Promise<string | undefined> {
    const isRead = this.#path !== '/configure'
    try {
      const response = await request(this.#url + this.#path, {
        method: isRead ? 'GET' : 'POST',
        headers: { 'content-type': 'application/json', 'user-agent': this.#name },
        body: isRead ? null : LIVE_JOB,
        signal,
      })
      const text = await response.body.text()
      if (response.statusCode === 200) return isRead ? 'answered' : 'configured'
      return text.includes('"forwarded":false') ? 'refused at once' : `failed with ${response.statusCode}`
    } catch {
      return signal.aborted ? undefined : 'failed'
    }
  }
}

function writeSummary(clients: readonly DemoClient[], simulator: Simulator): void {
  const { byRoute, rejectedForFiber } = simulator.counters
  simulator.resetCounters()
  const arrived = byRoute['POST /configure'] ?? 0
  const rejected = rejectedForFiber > 0 ? ` and rejected ${rejectedForFiber}` : ''
  const lines = clients.map(client => client.summary()).join('; ')
  const noun = arrived === 1 ? 'configure request' : 'configure requests'
  stdout.write(`  ${lines}. focus-server received ${arrived} ${noun}${rejected}.\n`)
}
