/**
 * Measures how much memory and CPU one process of focus-breaker needs, for `docs/explanation/sizing.md`.
 *
 * `npm run sizing` builds and runs it, on Linux only. It takes less than five minutes, on loopback, and prints Markdown
 * tables.
 *
 * The proxy is bound to one core (`taskset`), the upstream and the load generator to the others. CPU is the processor
 * time of the proxy's process, from `/proc`, so a busy machine changes it little. Memory is the resident set (`VmRSS`),
 * its proportional part (`Pss`), and the part that is not read from files (`RssAnon`, "own"); `peak` is the highest
 * resident set. The cost of a connection is the growth of the resident set divided by the number of connections, in a
 * new process for each measurement.
 *
 * Two mixes of requests are sent at a steady rate:
 *
 * - `outage`, without the fiber: 7 of 10 are `POST /configure`, refused; 3 are `GET /channels`, forwarded.
 * - `normal`, with the fiber: 8 of 10 are `GET /channels`, forwarded; 1 is `GET /live_metadata`, answered from the
 * cache;
 *   1 is `POST /configure`, forwarded and answered with a job of about 6 KB.
 *
 * Environment:
 *
 * - `SIZING_CORE`: the core of the proxy (the last one).
 * - `SIZING_SECONDS`: the length of each stretch of load (8).
 * - `SIZING_NODE`: another `node` that runs the proxy (the one that runs this program).
 * - `SIZING_MAIN`: the `main.js` of another build of the proxy (the one of this checkout).
 *
 * Exit codes: 0 measured; 1 a server did not start, sent a wrong response or ran out of resources; 2 a variable is
 * invalid, or there is no `/proc`.
 */
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { availableParallelism, cpus, loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { ask, jsonAt } from './ask.js'
import { Children, type Server } from './children.js'
import { cpuMs } from './cpu-time.js'
import { type PacedRequest, pace } from './paced-load.js'
import { bytesOf, CHANNELS, CONFIGURE, CONFIGURE_BODY } from './requests.js'
import { yearOfHistory } from './year-of-history.js'

const RATES = [100, 1000, 4000] as const

/** The rate of the last stretch: more than one process can handle. */
const TOO_MANY = 40_000

const METADATA = { method: 'GET', path: '/live_metadata', body: '' } as const

/** How long the proxy rests before its memory is read, and how long its CPU at rest is measured. */
const SETTLE_MS = 1500
const REST_MS = 8000

const CIRCUIT_TIMEOUT_MS = 60_000

const main = process.env.SIZING_MAIN ?? fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))
const upstreamFile = fileURLToPath(new URL('./upstream.js', import.meta.url))

type Settings = { readonly core: number; readonly seconds: number; readonly node: string }

/** The memory of a process, in KiB. */
type Memory = { readonly rss: number; readonly pss: number; readonly anon: number; readonly peak: number }

process.exitCode = await run(process.env)

async function run(environment: NodeJS.ProcessEnv): Promise<number> {
  const settings = settingsFrom(environment)
  if (typeof settings === 'string') {
    process.stderr.write(`${settings}\n`)
    return 2
  }
  const children = new Children()
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-sizing-'))
  process.once('exit', () => rmSync(directory, { recursive: true, force: true }))
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => process.exit(signal === 'SIGINT' ? 130 : 143))
  }
  try {
    await measureAll(children, settings, directory)
    return 0
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`)
    return 1
  } finally {
    await children.stop()
  }
}

function settingsFrom(environment: NodeJS.ProcessEnv): Settings | string {
  if (cpuMs(process.pid) === undefined) return 'sizing needs /proc, so it runs on Linux only'
  const cores = availableParallelism()
  const core = Number(environment.SIZING_CORE ?? cores - 1)
  const seconds = Number(environment.SIZING_SECONDS ?? 8)
  if (!Number.isInteger(core) || core < 0 || core >= cores) {
    return `SIZING_CORE: expected a whole number from 0 to ${cores - 1}, got ${environment.SIZING_CORE}`
  }
  if (!(seconds >= 1 && seconds <= 15)) {
    return `SIZING_SECONDS: expected seconds from 1 to 15, got ${environment.SIZING_SECONDS}`
  }
  return { core, seconds, node: environment.SIZING_NODE ?? process.execPath }
}

async function measureAll(children: Children, settings: Settings, directory: string): Promise<void> {
  const { core, seconds, node } = settings
  const others = Array.from({ length: availableParallelism() }, (_, index) => index).filter(
    each => each !== core,
  )
  if (others.length > 0) bind(process.pid, others.join())
  const present = await children.startNode([upstreamFile, 'present'])
  const missing = await children.startNode([upstreamFile, 'missing'])
  const proxy = async (upstream: Server, config: object = {}): Promise<Server> => {
    const file = join(directory, `${Math.random()}.json`)
    writeFileSync(file, JSON.stringify(config))
    const args = ['serve', '--config', file, '--host', '127.0.0.1', '--port', '0', '--upstream', upstream.url]
    const server = await children.startNode([main, ...args], node)
    bind(server.pid, String(core))
    await circuitIs(server, upstream === present ? 'closed' : 'open')
    return server
  }
  const version = execFileSync(node, ['--version'], { encoding: 'utf8' }).trim()
  print(
    `Node ${version}, ${cpus().length} × ${cpus()[0]?.model.trim()}; the proxy on core ${core}; ${seconds} s for each rate.`,
    `Load average at the start: ${loadavg()[0]?.toFixed(1)}.`,
    '',
    ...(await rates(settings, [
      ['outage', await proxy(missing), mixOf('outage')],
      ['normal', await proxy(present), mixOf('normal')],
    ])),
    '',
    ...(await holding(settings, () => proxy(missing))),
    '',
    ...(await withHistory(directory, file => proxy(present, { history: { file } }))),
    '',
    `Load average at the end: ${loadavg()[0]?.toFixed(1)}.`,
  )
}

function mixOf(name: 'outage' | 'normal'): readonly PacedRequest[] {
  const get = { bytes: bytesOf(CHANNELS), status: 200 }
  const refused = { bytes: bytesOf(CONFIGURE), status: 503 }
  const configured = { bytes: bytesOf(CONFIGURE), status: 200 }
  const metadata = { bytes: bytesOf(METADATA), status: 200 }
  return name === 'outage'
    ? [refused, refused, get, refused, refused, get, refused, refused, get, refused]
    : [get, get, get, get, configured, get, get, get, get, metadata]
}

/** The lines of a table with the cost of each mix at each rate. */
async function rates(
  { seconds }: Settings,
  mixes: readonly (readonly [name: string, proxy: Server, mix: readonly PacedRequest[]])[],
): Promise<readonly string[]> {
  const rows: (readonly string[])[] = []
  const most: string[] = []
  for (const [name, proxy, mix] of mixes) {
    await delay(SETTLE_MS)
    const before = cpuMs(proxy.pid) ?? Number.NaN
    await delay(REST_MS)
    const cores = ((cpuMs(proxy.pid) ?? Number.NaN) - before) / REST_MS
    rows.push([name, 'at rest', '', percent(cores), '', '', ...memoryCells(memoryOf(proxy.pid))])
    for (const rate of RATES) {
      const paced = await pace(proxy, mix, rate, seconds * 1000)
      rows.push([
        ...[name, String(rate), paced.requestsPerSecond.toFixed(0)],
        ...[percent(paced.cores), paced.cpuMicroseconds?.toFixed(0) ?? '?', paced.p99Ms.toFixed(1)],
        ...memoryCells(memoryOf(proxy.pid)),
      ])
    }
    const { requestsPerSecond, cores: busy = Number.NaN } = await pace(proxy, mix, TOO_MANY, seconds * 1000)
    most.push(
      `\`${name}\`: at most ${requestsPerSecond.toFixed(0)} requests/s with ${percent(busy)} of the core, which is ${(requestsPerSecond / busy).toFixed(0)} with all of it. Peak ${mib(memoryOf(proxy.pid).peak)} MiB.`,
    )
  }
  const head = [
    'Mix',
    'Asked for',
    'Requests/s',
    'CPU',
    'CPU µs / request',
    'p99 ms',
    'RSS MiB',
    'PSS MiB',
    'Own MiB',
    'Peak MiB',
  ]
  return [...table(head, rows), '', ...most]
}

/** The lines of a table with the cost of clients that hold a connection open, each kind in a new process. */
async function holding(settings: Settings, start: () => Promise<Server>): Promise<readonly string[]> {
  const get = (path: string, headers = '') => `GET ${path} HTTP/1.1\r\nHost: focus-server\r\n${headers}\r\n`
  const wait = bytesOf(CONFIGURE).toString().replace('\r\n\r\n', '\r\nPrefer: wait=60\r\n\r\n')
  const kinds: readonly (readonly [
    what: string,
    counts: readonly number[],
    request: string,
    responds: boolean,
  ])[] = [
    ['idle connections (keep-alive)', [1000, 5000], get('/-/live'), true],
    ['`/-/wait`', [1000], get('/-/wait?timeout=120s'), false],
    [`\`POST /configure\` with \`Prefer: wait\`, ${CONFIGURE_BODY.length} bytes`, [1000], wait, false],
    ['`/-/events`', [100, 1000], get('/-/events', 'Accept: text/event-stream\r\n'), true],
  ]
  const rows: (readonly string[])[] = []
  for (const [what, counts, request, responds] of kinds) {
    const proxy = await start()
    await pace(proxy, mixOf('outage'), 500, 2000)
    await delay(SETTLE_MS)
    const before = memoryOf(proxy.pid)
    const sockets: Socket[] = []
    try {
      for (const count of counts) {
        await hold(proxy, sockets, count - sockets.length, request, responds)
        await delay(SETTLE_MS)
        const cpuBefore = cpuMs(proxy.pid) ?? Number.NaN
        await delay(settings.seconds * 250)
        const cores = ((cpuMs(proxy.pid) ?? Number.NaN) - cpuBefore) / (settings.seconds * 250)
        const after = memoryOf(proxy.pid)
        rows.push([
          ...[what, String(count), mib(before.rss), mib(after.rss)],
          ...[((after.rss - before.rss) / count).toFixed(1), percent(cores)],
        ])
      }
    } finally {
      for (const socket of sockets) socket.destroy()
    }
    await stop(proxy)
  }
  return table(['Clients', 'Number', 'RSS before, MiB', 'RSS after, MiB', 'KiB each', 'CPU meanwhile'], rows)
}

/** Opens connections and sends the request on each. If a response is expected, waits for its beginning. */
async function hold(
  proxy: Server,
  sockets: Socket[],
  count: number,
  request: string,
  responds: boolean,
): Promise<void> {
  const { hostname, port } = new URL(proxy.url)
  for (let index = 0; index < count; index += 1) {
    const socket = connect({ host: hostname, port: Number(port), noDelay: true })
    sockets.push(socket)
    await once(socket, 'connect')
    const answered = once(socket, 'data')
    answered.catch(() => undefined)
    socket.on('error', () => undefined)
    socket.write(request)
    if (!responds) continue
    const [first]: readonly unknown[] = await answered
    if (!String(first).startsWith('HTTP/1.1 200'))
      throw new Error(`unexpected response: ${String(first).slice(0, 200)}`)
    socket.resume()
  }
}

/** The lines of a table with the cost of a year of history. */
async function withHistory(
  directory: string,
  start: (file: string) => Promise<Server>,
): Promise<readonly string[]> {
  const rows: (readonly string[])[] = []
  for (const [what, text] of [
    ['no outage yet', ''],
    ['a year: 10,000 outages', [...yearOfHistory(Date.now())].join('')],
  ] as const) {
    const file = join(directory, `history-${rows.length}.jsonl`)
    if (text !== '') writeFileSync(file, text)
    const proxy = await start(file)
    const startMs = cpuMs(proxy.pid) ?? Number.NaN
    await delay(SETTLE_MS)
    rows.push([
      ...[what, (Buffer.byteLength(text) / 1_048_576).toFixed(1), startMs.toFixed(0)],
      ...memoryCells(memoryOf(proxy.pid)),
    ])
    await stop(proxy)
  }
  return table(
    ['History file', 'MiB', 'CPU ms until ready', 'RSS MiB', 'PSS MiB', 'Own MiB', 'Peak MiB'],
    rows,
  )
}

async function stop({ pid }: Server): Promise<void> {
  process.kill(pid, 'SIGTERM')
  while (cpuMs(pid) !== undefined) await delay(50)
}

function bind(pid: number, list: string): void {
  execFileSync('taskset', ['--all-tasks', '--cpu-list', '--pid', list, String(pid)], { stdio: 'ignore' })
}

function memoryOf(pid: number): Memory {
  const read = (file: string, name: string) =>
    Number(
      new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(readFileSync(`/proc/${pid}/${file}`, 'latin1'))?.[1],
    )
  return {
    rss: read('status', 'VmRSS'),
    anon: read('status', 'RssAnon'),
    pss: read('smaps_rollup', 'Pss'),
    peak: read('status', 'VmHWM'),
  }
}

function memoryCells({ rss, pss, anon, peak }: Memory): readonly string[] {
  return [mib(rss), mib(pss), mib(anon), mib(peak)]
}

function mib(kib: number): string {
  return (kib / 1024).toFixed(0)
}

function percent(cores: number | undefined): string {
  return cores === undefined ? '?' : `${(cores * 100).toFixed(1)} %`
}

async function circuitIs(proxy: Server, state: 'open' | 'closed'): Promise<void> {
  const deadline = performance.now() + CIRCUIT_TIMEOUT_MS
  while (performance.now() < deadline) {
    const { body } = await ask(proxy.url, 'GET', '/-/status')
    if (jsonAt(body, 'circuit', 'state') === state && jsonAt(body, 'circuit', 'cause') !== 'starting') return
    await delay(50)
  }
  throw new Error(`the circuit of a proxy was not ${state} after ${CIRCUIT_TIMEOUT_MS} ms`)
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): readonly string[] {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`
  return [line(head), line(head.map((_, index) => (index === 0 ? '---' : '---:'))), ...rows.map(line)]
}

function print(...lines: readonly string[]): void {
  for (const line of lines) process.stdout.write(`${line}\n`)
}
