import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { type Answer, ask, jsonAt } from './ask.js'
import type { Children, Peer, Server } from './children.js'
import { startGateways } from './gateways.js'
import { CONFIGURE } from './requests.js'
import type { Settings } from './settings.js'

/** The servers for one state of the circuit: the proxies and peers, and the upstream behind them. */
export type Servers = {
  /** focus-breaker. */
  readonly subject: Peer
  /** Another build of focus-breaker, if `BENCH_MAIN` is set. */
  readonly before: Peer | undefined
  readonly others: readonly Peer[]
  readonly upstream: Server
  /** A line about each peer that cannot run here. */
  readonly leftOut: readonly string[]
}

/** How long a proxy may take to reach a state of the circuit. */
const CIRCUIT_TIMEOUT_MS = 15_000

const CIRCUIT_POLL_MS = 50

/** The proxies in front of an upstream without fiber, and the server that repeats the refusal of the first. */
export async function startRefusing(children: Children, settings: Settings): Promise<Servers> {
  const upstream = await children.startNode([pathTo('./upstream.js'), 'missing'])
  const proxies = await startProxies(children, settings, upstream, 'open')
  if (!wanted(settings)('node:http')) return { ...proxies, others: [], upstream, leftOut: [] }
  const refusal = await ask(proxies.subject.server.url, CONFIGURE.method, CONFIGURE.path, CONFIGURE.body)
  const raw = await children.startNode([
    ...profiling(settings, 'raw-server'),
    ...[pathTo('./raw-server.js'), repeated(refusal)],
  ])
  return { ...proxies, others: [{ name: 'node:http', server: raw }], upstream, leftOut: [] }
}

/** The proxies and all their peers in front of an upstream with its fiber. */
export async function startForwarding(
  children: Children,
  settings: Settings,
  directory: string,
): Promise<Servers> {
  const upstream = await children.startNode([pathTo('./upstream.js'), 'present'])
  const proxies = await startProxies(children, settings, upstream, 'closed')
  const isWanted = wanted(settings)
  const others: Peer[] = []
  for (const { name, file } of NODE_PEERS.filter(each => isWanted(each.name))) {
    const command = [...profiling(settings, file), pathTo(`./${file}.js`), upstream.url]
    others.push({ name, server: await children.startNode(command) })
  }
  const gateways = await startGateways(children, upstream.url, directory, isWanted)
  return { ...proxies, others: [...others, ...gateways.peers], upstream, leftOut: gateways.leftOut }
}

const NODE_PEERS = [
  { name: 'node:http + undici dispatch', file: 'bare-proxy' },
  { name: '@fastify/http-proxy', file: 'plain-http-proxy' },
  { name: 'http-proxy', file: 'node-http-proxy' },
] as const

async function startProxies(
  children: Children,
  settings: Settings,
  upstream: Server,
  circuit: 'open' | 'closed',
): Promise<Pick<Servers, 'subject' | 'before'>> {
  const start = async (name: string, main: string, profile: string): Promise<Peer> => {
    const server = await children.startNode([
      ...profiling(settings, `${profile}-${circuit}`),
      ...[main, 'serve', '--host', '127.0.0.1', '--port', '0', '--upstream', upstream.url],
    ])
    await circuitIs(server, circuit)
    return { name, server }
  }
  const { subjectMain = pathTo('../../dist/cli/main.js'), beforeMain } = settings
  const subject = await start('focus-breaker', subjectMain, 'focus-breaker')
  const before =
    beforeMain === undefined ? undefined : await start('focus-breaker before', beforeMain, 'before')
  return { subject, before }
}

function wanted({ peers }: Settings): (name: string) => boolean {
  return name => peers.length === 0 || peers.some(part => name.includes(part))
}

function profiling({ cpuProfiles }: Settings, name: string): readonly string[] {
  return cpuProfiles === undefined
    ? []
    : ['--cpu-prof', `--cpu-prof-dir=${cpuProfiles}`, `--cpu-prof-name=${name}.cpuprofile`]
}

/** The argument of `raw-server.ts` for a response, without the headers that `node:http` adds itself. */
function repeated({ status, headers, body }: Answer): string {
  const added = new Set(['date', 'connection', 'keep-alive'])
  const own = headers.filter((_, index) => !added.has((headers[index - (index % 2)] ?? '').toLowerCase()))
  return JSON.stringify({ status, headers: own, body: body.toString() })
}

async function circuitIs(proxy: Server, state: 'open' | 'closed'): Promise<void> {
  const deadline = performance.now() + CIRCUIT_TIMEOUT_MS
  while (performance.now() < deadline) {
    const { body } = await ask(proxy.url, 'GET', '/-/status')
    if (jsonAt(body, 'circuit', 'state') === state && jsonAt(body, 'circuit', 'cause') !== 'starting') return
    await delay(CIRCUIT_POLL_MS)
  }
  throw new Error(`the circuit of a proxy was not ${state} after ${CIRCUIT_TIMEOUT_MS} ms`)
}

function pathTo(file: string): string {
  return fileURLToPath(new URL(file, import.meta.url))
}
