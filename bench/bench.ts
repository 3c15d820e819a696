/**
 * What focus-breaker costs, measured against the least that there could be in its place.
 *
 * `npm run bench` builds and runs it: about 50 s, on loopback, each server in a process of its own. Measured are
 *
 * 1. refusals: `POST /configure` while the circuit is open, answered by the proxy, against a bare `node:http`
 *    server that sends the same status, fields and bytes without looking at the request;
 * 2. forwarding: `GET /channels` and `POST /configure` with the circuit closed, through the proxy, against the
 *    same simulated focus-server asked directly. The simulator answers at once: what is left is the way there.
 *
 * Each is taken twice. With many connections that never pause the server is saturated: the requests per second
 * count, and the latency is mostly the queue that we made ourselves. With one connection the latency counts.
 * The stretches of all servers alternate, the first of a round becomes the last of the next, and a ratio is the
 * median of the rounds' ratios, so that whatever else the machine does hits all alike. Warm-up is thrown away.
 *
 * `CPU µs` is the processor time of the asked server alone for one request, from `/proc`. Requests per second
 * depend on how many cores are free: forwarding keeps three processes busy (generator, proxy, simulator), and
 * where there are only two cores, or others want them too, they take turns. The CPU time depends on that far
 * less: on a busy machine its ratio is the one to go by.
 *
 * Not measured: focus-server itself (which takes 100 ms and more), networks, TLS, many clients with a connection
 * each time, large bodies, behaviour over hours, and the recovery after an outage.
 *
 * Environment: `BENCH_SECONDS` (45) the time under load, warm-up included; `BENCH_ROUNDS` (15);
 * `BENCH_CONNECTIONS` (32); `BENCH_CPU_PROFILES` a directory for a `.cpuprofile` of each proxy, which slows it
 * down. Exit codes: 0 measured; 1 something was not as it should be, and there are no figures; 2 wrong usage.
 */
import { request as httpRequest } from 'node:http'
import { cpus } from 'node:os'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Children, cpuMs, type Server } from './children.js'
import { type Measured, measure } from './load.js'

/** One server under one kind of request. */
type Case = {
  readonly name: string
  readonly server: Server
  readonly request: Buffer
  readonly status: number
}

/** The proxy, and what it is held against. */
type Comparison = { readonly subject: Case; readonly reference: Case }

/** A stretch of load on a case. */
type Stretch = Measured & { readonly cpuMs: number | undefined }

type Settings = {
  readonly seconds: number
  readonly rounds: number
  readonly connections: number
  readonly cpuProfiles: string | undefined
}

/** What was measured of all cases: a list of stretches for each, one for each round. */
type Results = ReadonlyMap<Case, readonly Stretch[]>

type Servers = {
  readonly openProxy: Server
  readonly openSimulator: Server
  readonly closedProxy: Server
  readonly closedSimulator: Server
  readonly rawServer: Server
}

type Answer = { readonly status: number; readonly headers: readonly string[]; readonly body: string }

/** Far more than any server of ours answers in a stretch; memory and time are bounded by it all the same. */
const MAX_REQUESTS = 1_000_000

/** How the time under load is shared out; the rest goes to the stretches with one connection. */
const WARM_UP_SHARE = 0.2
const SATURATED_SHARE = 0.6

const CIRCUIT_TIMEOUT_MS = 15_000

/** What Python's requests sends, as focus-server's clients do. */
const CLIENT_FIELDS = [
  'User-Agent: python-requests/2.32.3',
  'Accept-Encoding: gzip, deflate',
  'Accept: */*',
  'Connection: keep-alive',
]

const CONFIGURE_BODY = JSON.stringify({
  displayTimeAxisDuration: 30,
  nfftSelection: 1024,
  displayInfo: { height: 200 },
  channels: { min: 11, max: 109 },
  frequencyRange: { min: 0, max: 1000 },
  start_time: null,
  end_time: null,
  view_type: '0',
})

process.exitCode = await main(process.env)

async function main(environment: NodeJS.ProcessEnv): Promise<number> {
  const settings = settingsFrom(environment)
  if (typeof settings === 'string') {
    process.stderr.write(`${settings}\n`)
    return 2
  }
  const children = new Children()
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => process.exit(signal === 'SIGINT' ? 130 : 143))
  }
  try {
    await bench(children, settings)
    return 0
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`)
    return 1
  } finally {
    await children.stop()
  }
}

function settingsFrom(environment: NodeJS.ProcessEnv): Settings | string {
  const faults: string[] = []
  const number = (name: string, byDefault: number, accepts: (value: number) => boolean, expected: string) => {
    const value = Number(environment[name] ?? byDefault)
    if (!accepts(value)) faults.push(`${name}: expected ${expected}, given ${environment[name]}`)
    return value
  }
  const isCount = (value: number) => Number.isInteger(value) && value >= 1 && value <= 200
  const settings = {
    seconds: number('BENCH_SECONDS', 45, value => value >= 1 && value <= 600, 'seconds from 1 to 600'),
    rounds: number('BENCH_ROUNDS', 15, isCount, 'a whole number from 1 to 200'),
    connections: number('BENCH_CONNECTIONS', 32, isCount, 'a whole number from 1 to 200'),
    cpuProfiles: environment.BENCH_CPU_PROFILES,
  }
  return faults.length === 0 ? settings : faults.join('\n')
}

async function bench(children: Children, settings: Settings): Promise<void> {
  const { seconds, rounds, connections } = settings
  const servers = await startServers(children, settings)
  const comparisons = comparisonsOf(servers)
  const cases = comparisons.flatMap(({ subject, reference }) => [subject, reference])
  const caseMs = (seconds * 1000) / cases.length
  const saturatedMs = (caseMs * SATURATED_SHARE) / rounds
  const singleMs = (caseMs * (1 - WARM_UP_SHARE - SATURATED_SHARE)) / rounds

  print(
    `Node ${process.version} on ${process.platform} ${process.arch}, ${cpus().length} × ${cpus()[0]?.model.trim()}`,
    `${rounds} rounds, alternating: ${saturatedMs.toFixed(0)} ms with ${connections} connections, ${singleMs.toFixed(0)} ms with one; medians over the rounds`,
  )
  if (settings.cpuProfiles !== undefined) print(`the proxies were profiled: see ${settings.cpuProfiles}`)
  await Promise.all([resetCounters(servers.openSimulator), resetCounters(servers.closedSimulator)])
  const refusedBefore = await refusedBy(servers.openProxy)

  const warmUp = await roundsOf(cases, 1, connections, caseMs * WARM_UP_SHARE)
  const saturated = await roundsOf(cases, rounds, connections, saturatedMs)
  const single = await roundsOf(cases, rounds, 1, singleMs)

  print('', table(`${connections} connections`, comparisons, saturated))
  print('', table('1 connection', comparisons, single))
  print('', ...(await checks(servers, comparisons, [warmUp, saturated, single], refusedBefore)))
  print(...limits(saturated))
}

/** A proxy for each state of the circuit, so that no round has to wait for a recovery. */
async function startServers(children: Children, settings: Settings): Promise<Servers> {
  const [openSimulator, closedSimulator] = await Promise.all([
    children.start([pathTo('./simulator.js')]),
    children.start([pathTo('./simulator.js')]),
  ])
  await setFiber(openSimulator, 'missing')
  await setFiber(closedSimulator, 'present')
  const [openProxy, closedProxy] = await Promise.all([
    children.start(proxyCommand(openSimulator, settings)),
    children.start(proxyCommand(closedSimulator, settings)),
  ])
  await circuitIs(openProxy, 'open')
  await circuitIs(closedProxy, 'closed')
  const refusal = await configure(openProxy)
  const rawServer = await children.start([pathTo('./raw-server.js'), JSON.stringify(bare(refusal))])
  const copy = await configure(rawServer)
  if (shapeOf(copy) !== shapeOf(refusal)) {
    throw new Error(
      `the bare server does not answer as the proxy does:\n${shapeOf(refusal)}\n${shapeOf(copy)}`,
    )
  }
  return { openProxy, openSimulator, closedProxy, closedSimulator, rawServer }
}

function proxyCommand(simulator: Server, { cpuProfiles }: Settings): readonly string[] {
  return [
    ...(cpuProfiles === undefined ? [] : ['--cpu-prof', '--cpu-prof-dir', cpuProfiles]),
    pathTo('../../dist/cli/main.js'),
    ...['serve', '--host', '127.0.0.1', '--port', '0', '--upstream', simulator.url],
  ]
}

function comparisonsOf(servers: Servers): readonly Comparison[] {
  const refused = { request: requestBytes('POST', '/configure', CONFIGURE_BODY), status: 503 }
  const admitted = { ...refused, status: 200 }
  const channels = { request: requestBytes('GET', '/channels'), status: 200 }
  const { openProxy, rawServer, closedProxy, closedSimulator } = servers
  return [
    {
      subject: { name: 'POST /configure refused, proxy', server: openProxy, ...refused },
      reference: { name: 'the same answer, bare node:http', server: rawServer, ...refused },
    },
    {
      subject: { name: 'GET /channels forwarded, proxy', server: closedProxy, ...channels },
      reference: { name: 'GET /channels, simulator directly', server: closedSimulator, ...channels },
    },
    {
      subject: { name: 'POST /configure forwarded, proxy', server: closedProxy, ...admitted },
      reference: { name: 'POST /configure, simulator directly', server: closedSimulator, ...admitted },
    },
  ]
}

function requestBytes(method: string, path: string, body?: string): Buffer {
  const entity =
    body === undefined ? [] : [`Content-Length: ${Buffer.byteLength(body)}`, 'Content-Type: application/json']
  const lines = [`${method} ${path} HTTP/1.1`, 'Host: focus-server', ...CLIENT_FIELDS, ...entity]
  return Buffer.from(`${lines.join('\r\n')}\r\n\r\n${body ?? ''}`)
}

async function roundsOf(
  cases: readonly Case[],
  rounds: number,
  connections: number,
  durationMs: number,
): Promise<Results> {
  const results = new Map<Case, Stretch[]>(cases.map(each => [each, []]))
  for (let round = 0; round < rounds; round += 1) {
    for (const each of round % 2 === 0 ? cases : cases.toReversed()) {
      results.get(each)?.push(await stretch(each, connections, durationMs))
    }
  }
  return results
}

async function stretch(
  { server, request, status }: Case,
  connections: number,
  durationMs: number,
): Promise<Stretch> {
  const before = cpuMs(server.pid)
  const url = new URL(server.url)
  const measured = await measure({ url, request, status, connections, durationMs, maxRequests: MAX_REQUESTS })
  const after = cpuMs(server.pid)
  return { ...measured, cpuMs: before === undefined || after === undefined ? undefined : after - before }
}

function table(title: string, comparisons: readonly Comparison[], results: Results): string {
  const head = [title, 'requests/s', 'p50 ms', 'p99 ms', 'CPU µs']
  const rows = [[...head, 'ratio (least–most)', 'CPU ratio', 'added p50 ms']]
  for (const { subject, reference } of comparisons) {
    const ours = results.get(subject) ?? []
    const theirs = results.get(reference) ?? []
    const pairs = ours.flatMap((stretch, round) => {
      const other = theirs[round]
      return other === undefined ? [] : [{ stretch, other }]
    })
    const ratios = pairs.map(({ stretch, other }) => stretch.perSecond / other.perSecond)
    const range = `${Math.min(...ratios).toFixed(2)}–${Math.max(...ratios).toFixed(2)}`
    const added = median(pairs.map(({ stretch, other }) => stretch.p50Ms - other.p50Ms))
    const cpuRatio = cpuMicroseconds(ours) / cpuMicroseconds(theirs)
    const compared = [`${median(ratios).toFixed(2)} (${range})`, figure(cpuRatio, 1), figure(added, 3)]
    rows.push([subject.name, ...figures(ours), ...compared], [reference.name, ...figures(theirs), '1', '1'])
  }
  const widths = head
    .concat('', '', '')
    .map((_, column) => Math.max(...rows.map(row => row[column]?.length ?? 0)))
  const line = (row: readonly string[]) =>
    row.map((cell, column) =>
      column === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[column] ?? 0),
    )
  return rows.map(row => line(row).join('  ')).join('\n')
}

function figures(stretches: readonly Stretch[]): readonly string[] {
  return [
    figure(median(stretches.map(({ perSecond }) => perSecond)), 0),
    figure(median(stretches.map(({ p50Ms }) => p50Ms)), 3),
    figure(median(stretches.map(({ p99Ms }) => p99Ms)), 3),
    figure(cpuMicroseconds(stretches), 0),
  ]
}

function figure(value: number, digits: number): string {
  return Number.isFinite(value) ? value.toFixed(digits) : '–'
}

/** For one request. Of all stretches together: the steps of 10 ms are coarse for a single one. */
function cpuMicroseconds(stretches: readonly Stretch[]): number {
  const usedMs = stretches.reduce((sum, stretch) => sum + (stretch.cpuMs ?? Number.NaN), 0)
  return (usedMs * 1000) / stretches.reduce((sum, { requests }) => sum + requests, 0)
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length / 2
  return ((sorted[Math.ceil(middle) - 1] ?? Number.NaN) + (sorted[Math.floor(middle)] ?? Number.NaN)) / 2
}

/**
 * What the servers counted, against what was sent to them.
 *
 * @throws when a refused request reached focus-server, or the counts of a server are not what was sent.
 */
async function checks(
  servers: Servers,
  comparisons: readonly Comparison[],
  phases: readonly Results[],
  refusedBefore: number,
): Promise<readonly string[]> {
  const sentTo = (server: Server, method: string) =>
    comparisons
      .flatMap(({ subject, reference }) => [subject, reference])
      .filter(each => each.server === server && each.request.toString('latin1').startsWith(method))
      .flatMap(each => phases.flatMap(phase => phase.get(each) ?? []))
      .reduce((sum, { requests }) => sum + requests, 0)
  const refusedSent = sentTo(servers.openProxy, 'POST')
  const refused = (await refusedBy(servers.openProxy)) - refusedBefore
  const leaked = await configuresSeenBy(servers.openSimulator)
  const admittedSent = sentTo(servers.closedProxy, 'POST') + sentTo(servers.closedSimulator, 'POST')
  const admitted = await configuresSeenBy(servers.closedSimulator)
  const counts = [
    `refused: ${refusedSent} sent, ${refused} counted by the proxy, ${leaked} configures seen by the simulator behind it`,
    `not refused: ${admittedSent} configures sent through the proxy and directly, ${admitted} seen by the simulator`,
  ]
  if (leaked !== 0 || refused !== refusedSent || admitted !== admittedSent) {
    throw new Error(`the counts do not fit:\n${counts.join('\n')}`)
  }
  return counts
}

/** A word about each case in which the generator had more to do than the server. */
function limits(results: Results): readonly string[] {
  return [...results].flatMap(([{ name }, stretches]) => {
    const busy = median(stretches.map(({ generatorBusy }) => generatorBusy))
    return busy < 0.9
      ? []
      : [`"${name}": the generator used ${(busy * 100).toFixed(0)} % of a core, the server could do more`]
  })
}

/** The answer without what `node:http` adds by itself. */
function bare({ status, headers, body }: Answer): Answer {
  const added = new Set(['date', 'connection', 'keep-alive'])
  const own = headers.flatMap((name, index) =>
    index % 2 === 1 || added.has(name.toLowerCase()) ? [] : [name, headers[index + 1] ?? ''],
  )
  return { status, headers: own, body }
}

/** Everything about an answer that makes work: its fields in any order with the length of their values. */
function shapeOf({ status, headers, body }: Answer): string {
  const fields = headers.flatMap((name, index) =>
    index % 2 === 1 ? [] : [`${name.toLowerCase()}:${(headers[index + 1] ?? '').length}`],
  )
  return `${status} ${fields.toSorted().join(' ')} body:${Buffer.byteLength(body)}`
}

function configure(server: Server): Promise<Answer> {
  return exchange(server, 'POST', '/configure', CONFIGURE_BODY)
}

async function setFiber(simulator: Server, state: 'present' | 'missing'): Promise<void> {
  const { status, body } = await exchange(simulator, 'PUT', '/_simulator/fiber', JSON.stringify({ state }))
  if (status !== 204) throw new Error(`the simulator did not take the fiber's state: ${status} ${body}`)
}

async function resetCounters(simulator: Server): Promise<void> {
  const { status, body } = await exchange(simulator, 'POST', '/_simulator/reset')
  if (status !== 204) throw new Error(`the simulator did not reset its counters: ${status} ${body}`)
}

/** An entry is there only for what was asked for; so none is 0, and a body of another kind an error. */
async function configuresSeenBy(simulator: Server): Promise<number> {
  const byRoute = at(JSON.parse((await exchange(simulator, 'GET', '/_simulator/counters')).body), 'byRoute')
  if (typeof byRoute !== 'object') throw new Error('the counters of the simulator have no byRoute')
  const count = at(byRoute, 'POST /configure') ?? 0
  if (typeof count !== 'number') throw new Error('the counters of the simulator hold no number')
  return count
}

async function refusedBy(proxy: Server): Promise<number> {
  const refused = at(await statusOf(proxy), 'totals', 'refused')
  if (typeof refused !== 'number') throw new Error('the status of the proxy has no totals.refused')
  return refused
}

async function circuitIs(proxy: Server, state: 'open' | 'closed'): Promise<void> {
  const deadline = performance.now() + CIRCUIT_TIMEOUT_MS
  while (performance.now() < deadline) {
    const status = await statusOf(proxy)
    if (at(status, 'circuit', 'state') === state && at(status, 'circuit', 'cause') !== 'starting') return
    await delay(50)
  }
  throw new Error(`the circuit of a proxy was not ${state} after ${CIRCUIT_TIMEOUT_MS} ms`)
}

async function statusOf(proxy: Server): Promise<unknown> {
  return JSON.parse((await exchange(proxy, 'GET', '/-/status')).body)
}

function exchange(server: Server, method: string, path: string, body = ''): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }
    httpRequest(`${server.url}${path}`, { method, headers }, response => {
      const chunks: Buffer[] = []
      response.on('data', chunk => chunks.push(chunk))
      response.on('end', () =>
        resolve({
          status: response.statusCode ?? 0,
          headers: response.rawHeaders,
          body: Buffer.concat(chunks).toString(),
        }),
      )
      response.on('error', reject)
    })
      .on('error', reject)
      .end(body)
  })
}

/** What stands at the end of the keys in a JSON value, or undefined where one of them is not there. */
function at(value: unknown, ...keys: readonly string[]): unknown {
  let found = value
  for (const key of keys) {
    if (typeof found !== 'object' || found === null) return undefined
    found = Reflect.get(found, key)
  }
  return found
}

function pathTo(file: string): string {
  return fileURLToPath(new URL(file, import.meta.url))
}

function print(...lines: readonly string[]): void {
  for (const line of lines) process.stdout.write(`${line}\n`)
}
