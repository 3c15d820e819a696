import { ask, jsonAt } from './ask.js'
import type { Server } from './children.js'
import type { Track } from './rounds.js'
import type { Servers } from './servers.js'
import type { CaseName } from './settings.js'

/** The servers' own counts, which only grow. */
export type Counts = {
  /** Configure requests that reached the upstream without a fiber. */
  readonly leaked: number
  /** Refusals that each proxy in front of that upstream counted, in the order of `proxiesOf`. */
  readonly refused: readonly number[]
  /** Requests that reached the upstream with a fiber. */
  readonly channels: number
  readonly configures: number
}

/** Asks the servers for their counts. */
export async function countsOf(refusing: Servers, forwarding: Servers): Promise<Counts> {
  return {
    leaked: await received(refusing.upstream, 'POST /configure'),
    refused: await Promise.all(proxiesOf(refusing).map(({ server }) => refusedBy(server))),
    channels: await received(forwarding.upstream, 'GET /channels'),
    configures: await received(forwarding.upstream, 'POST /configure'),
  }
}

/**
 * Compares what the servers counted during the run with what was sent to them, and returns a line for each count.
 *
 * @throws if a refused request reached the upstream, or a count differs from the number of requests sent.
 */
export function checkCounts(
  tracks: readonly Track[],
  refusing: Servers,
  before: Counts,
  after: Counts,
): readonly string[] {
  const sent = (name: CaseName, server?: Server) =>
    tracks
      .filter(({ benchCase, peer }) => benchCase.name === name && (server ?? peer.server) === peer.server)
      .reduce((sum, track) => sum + track.sent, 0)
  const comparisons = [
    {
      what: 'refused requests that reached the upstream',
      expected: 0,
      counted: after.leaked - before.leaked,
    },
    ...proxiesOf(refusing).map(({ name, server }, index) => ({
      what: `requests refused by ${name}`,
      expected: sent('refusal', server),
      counted: (after.refused[index] ?? 0) - (before.refused[index] ?? 0),
    })),
    {
      what: 'GET /channels received by the upstream',
      expected: sent('get'),
      counted: after.channels - before.channels,
    },
    {
      what: 'POST /configure received by the upstream',
      expected: sent('post'),
      counted: after.configures - before.configures,
    },
  ]
  const wrong = comparisons.filter(({ expected, counted }) => expected !== counted)
  if (wrong.length > 0) {
    const lines = wrong.map(({ what, expected, counted }) => `${what}: expected ${expected}, got ${counted}`)
    throw new Error(`the counts do not match what was sent:\n${lines.join('\n')}`)
  }
  return comparisons.map(({ what, counted }) => `${what}: ${counted}, as expected`)
}

function proxiesOf({ subject, before }: Servers) {
  return before === undefined ? [subject] : [subject, before]
}

async function received(upstream: Server, route: string): Promise<number> {
  const count = jsonAt((await ask(upstream.url, 'GET', '/bench/counts')).body, route) ?? 0
  if (typeof count !== 'number') throw new Error('the counts of the upstream are not numbers')
  return count
}

async function refusedBy(proxy: Server): Promise<number> {
  const refused = jsonAt((await ask(proxy.url, 'GET', '/-/status')).body, 'totals', 'refused')
  if (typeof refused !== 'number') throw new Error('the status of the proxy has no totals.refused')
  return refused
}
