/**
 * Measures what focus-breaker costs, compared with other servers that do the same work.
 *
 * `npm run bench` builds and runs it. It takes about 85 s, on loopback, with each server in its own process.
 * There are three cases:
 *
 * - `refusal`: `POST /configure` while the circuit is open. The peer is a `node:http` server that sends the same
 *   bytes and does nothing else.
 * - `get`: `GET /channels`, forwarded.
 * - `post`: `POST /configure`, forwarded and answered with a job of about 6 KB.
 *
 * The peers of the last two are the smallest correct proxy on `node:http` and undici (`bare-proxy.ts`), plain
 * `@fastify/http-proxy`, the package `http-proxy`, and HAProxy and nginx where they are installed.
 * focus-breaker runs with its default options. Every peer is checked for correct responses before it is measured.
 *
 * Each round measures each server once, every other round in reverse order. A ratio is focus-breaker's figure
 * divided by the peer's figure of the same round; the table shows the median of the rounds, with minimum and
 * maximum. `CPU µs` is the processor time of the measured server for one request, from `/proc`. On a busy machine
 * compare the CPU ratios: requests per second depend on how many cores are free for the load generator, the server
 * and the upstream.
 *
 * Not measured: focus-server itself, networks, TLS, connection setup, large bodies, and long runs.
 *
 * Environment:
 *
 * - `BENCH_CASES`: the cases to run, as in `get,post` (all).
 * - `BENCH_PEERS`: the peers to run, by parts of their names, as in `undici,nginx` (all). focus-breaker always runs.
 * - `BENCH_ROUNDS`: the number of rounds (9).
 * - `BENCH_SECONDS`: the total time under load, warm-up included (80).
 * - `BENCH_CONNECTIONS`: the number of connections (32).
 * - `BENCH_MAIN`: the `dist/cli/main.js` of another build of focus-breaker, measured as one more peer.
 * - `BENCH_SUBJECT`: the `dist/cli/main.js` that is measured as focus-breaker (that of this checkout).
 * - `BENCH_JSON`: a file for all figures, as JSON.
 * - `BENCH_CPU_PROFILES`: a directory for a `.cpuprofile` of each Node server. Profiling slows the servers down.
 *
 * Exit codes: 0 measured; 1 a server did not start, sent a wrong response or miscounted, and there are no figures;
 * 2 a variable has an invalid value.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { casesOf } from './cases.js'
import { Children } from './children.js'
import { checkCounts, countsOf } from './counts.js'
import { checkForwarding, checkRefusal, checkSameShape } from './peer-checks.js'
import { json, limits, markdown, rowsOf, setUp } from './report.js'
import { durationsOf, runRounds } from './rounds.js'
import { type Servers, startForwarding, startRefusing } from './servers.js'
import { type Settings, settingsFrom } from './settings.js'

process.exitCode = await main(process.env)

async function main(environment: NodeJS.ProcessEnv): Promise<number> {
  const settings = settingsFrom(environment)
  if (typeof settings === 'string') {
    process.stderr.write(`${settings}\n`)
    return 2
  }
  const children = new Children()
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-bench-'))
  process.once('exit', () => rmSync(directory, { recursive: true, force: true }))
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => process.exit(signal === 'SIGINT' ? 130 : 143))
  }
  try {
    await bench(children, settings, directory)
    return 0
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`)
    return 1
  } finally {
    await children.stop()
  }
}

async function bench(children: Children, settings: Settings, directory: string): Promise<void> {
  const refusing = await startRefusing(children, settings)
  const forwarding = await startForwarding(children, settings, directory)
  await checkPeers(refusing, forwarding)

  const cases = casesOf(settings, refusing, forwarding)
  const durations = durationsOf(cases, settings)
  const before = await countsOf(refusing, forwarding)
  const tracks = await runRounds(cases, settings, durations)
  const counts = checkCounts(tracks, refusing, before, await countsOf(refusing, forwarding))

  const rows = rowsOf(tracks)
  if (settings.jsonFile !== undefined) writeFileSync(settings.jsonFile, json(settings, rows, tracks))
  print(setUp(settings, durations), ...forwarding.leftOut)
  if (settings.cpuProfiles !== undefined) print(`The servers were profiled: see ${settings.cpuProfiles}`)
  print('', markdown(cases, rows), '', ...limits(rows), ...counts)
}

async function checkPeers(refusing: Servers, forwarding: Servers): Promise<void> {
  for (const peer of [refusing.subject, ...(refusing.before === undefined ? [] : [refusing.before])]) {
    await checkRefusal(peer)
  }
  for (const peer of refusing.others) await checkSameShape(peer, refusing.subject)
  const { subject, before, others, upstream } = forwarding
  for (const peer of [subject, ...(before === undefined ? [] : [before]), ...others]) {
    await checkForwarding(peer, upstream)
  }
}

function print(...lines: readonly string[]): void {
  for (const line of lines) process.stdout.write(`${line}\n`)
}
