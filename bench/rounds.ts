import type { BenchCase } from './cases.js'
import type { Peer } from './children.js'
import { measure, type Stretch } from './load.js'
import type { Settings } from './settings.js'

/** The measurements of one server in one case: a stretch for each round. */
export type Track = {
  readonly benchCase: BenchCase
  readonly peer: Peer
  /** With many connections that never pause: the server, or its surroundings, is saturated. */
  readonly saturated: readonly Stretch[]
  /** With one connection: nothing queues, so the latency counts. */
  readonly single: readonly Stretch[]
  /** All requests sent, warm-up included. */
  readonly sent: number
}

/** The duration of each stretch, so that all stretches together take `seconds`. */
export type Durations = {
  readonly warmUpMs: number
  readonly saturatedMs: number
  readonly singleMs: number
}

const WARM_UP_SHARE = 0.25
const SATURATED_SHARE = 0.58

/** Divides the time under load evenly. */
export function durationsOf(cases: readonly BenchCase[], { seconds, rounds }: Settings): Durations {
  const tracks = cases.reduce((sum, { peers }) => sum + 1 + peers.length, 0)
  const trackMs = (seconds * 1000) / tracks
  return {
    warmUpMs: trackMs * WARM_UP_SHARE,
    saturatedMs: (trackMs * SATURATED_SHARE) / rounds,
    singleMs: (trackMs * (1 - WARM_UP_SHARE - SATURATED_SHARE)) / rounds,
  }
}

/**
 * Warms every server up, then measures each once per round. Every other round runs in reverse order, so that a
 * disturbance of the machine does not always hit the same server.
 */
export async function runRounds(
  cases: readonly BenchCase[],
  { rounds, connections }: Settings,
  { warmUpMs, saturatedMs, singleMs }: Durations,
): Promise<readonly Track[]> {
  const recorders = cases.flatMap(benchCase =>
    [benchCase.subject, ...benchCase.peers].map(peer => new Recorder(benchCase, peer)),
  )
  for (const recorder of recorders) await recorder.warmUp(connections, warmUpMs)
  for (let round = 0; round < rounds; round += 1) {
    for (const recorder of round % 2 === 0 ? recorders : recorders.toReversed()) {
      await recorder.measure(connections, saturatedMs, singleMs)
    }
  }
  return recorders
}

class Recorder implements Track {
  readonly benchCase: BenchCase
  readonly peer: Peer
  readonly saturated: Stretch[] = []
  readonly single: Stretch[] = []
  sent = 0

  constructor(benchCase: BenchCase, peer: Peer) {
    this.benchCase = benchCase
    this.peer = peer
  }

  async warmUp(connections: number, durationMs: number): Promise<void> {
    await this.#stretch(connections, durationMs)
  }

  async measure(connections: number, saturatedMs: number, singleMs: number): Promise<void> {
    this.saturated.push(await this.#stretch(connections, saturatedMs))
    this.single.push(await this.#stretch(1, singleMs))
  }

  async #stretch(connections: number, durationMs: number): Promise<Stretch> {
    const { request, status } = this.benchCase
    const stretch = await measure({ server: this.peer.server, request, status, connections, durationMs })
    this.sent += stretch.sent
    return stretch
  }
}
