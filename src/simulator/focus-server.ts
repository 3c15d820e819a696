import { once, setMaxListeners } from 'node:events'
import type { Server, ServerResponse } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import Fastify, {
  type FastifyError,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
} from 'fastify'
import { addControl, controlPrefix } from './control.js'
import { addEndpoints, pathOfStarlette } from './endpoints.js'
import { type Fault, respondWithFault } from './fault-injection.js'
import { type Job, Jobs } from './jobs.js'
import { pathOf, sendJson } from './received.js'
import { type Recording, recordings } from './samples.js'
import { type Fiber, fiberAt, type Scenario } from './scenario.js'

/** Options of the simulator. All are optional; the default comes first in each comment. */
export interface SimulatorOptions {
  /** `127.0.0.1`. */
  readonly host?: string
  /** 0: any free port; see `Simulator.port`. */
  readonly port?: number
  /** `present`. The initial state of the fiber, until `setFiber`. Ignored with a `scenario`. */
  readonly fiber?: Fiber
  /** None. Changes the fiber over time once the simulator listens, until `setFiber` takes over. */
  readonly scenario?: Scenario
  /** `none`: responds at once. `realistic`: takes as long as the real server did when measured. */
  readonly latency?: 'realistic' | 'none'
  /** 30. Maximum number of running jobs; beyond it a configure request gets 503. */
  readonly maxJobs?: number
  /** 30000. How long a job runs. */
  readonly jobDurationMs?: number
  /** False. Whether historic jobs start while the fiber is missing, as was once observed. */
  readonly historicWithoutFiber?: boolean
  /** `recordings` of `samples.ts`. The time ranges of stored data. */
  readonly recordings?: readonly Recording[]
  /** None. Called with each line that the real server would log about a rejected configure request. */
  readonly log?: (line: string) => void
  /** `Math.random`. Draws the latencies. */
  readonly random?: () => number
}

/** Requests received since the start or the last reset. Control requests are not counted. */
export interface Counters {
  readonly total: number
  /** By `METHOD /route`, or by `METHOD /path` for unknown routes. A route without requests has no entry. */
  readonly byRoute: Readonly<Record<string, number>>
  /** `POST /configure` requests in progress. A reset does not change it. */
  readonly inFlight: number
  readonly maxInFlight: number
  /** `POST /configure` requests that were rejected because the fiber is missing. */
  readonly rejectedForFiber: number
  /** Exchanges that either side ended before the whole response was sent. */
  readonly aborted: number
}

const configureRoute = 'POST /configure'

/** Starts a stand-in for focus-server on a real port. Rejects if the port is not available. */
export async function startSimulator(options: SimulatorOptions = {}): Promise<Simulator> {
  const simulator = new Simulator(options)
  await simulator.start(options.port ?? 0)
  return simulator
}

/** A running simulated focus-server. Created by `startSimulator`. */
export class Simulator {
  readonly #app: FastifyInstance
  readonly #server: Server
  readonly #host: string
  readonly #options: SimulatorOptions
  readonly #jobs: Jobs
  readonly #faults = new Map<string, Fault>()
  readonly #closing = new AbortController()
  readonly #endScenario = new AbortController()
  #port = 0
  #fiber: Fiber
  #absent = false
  #listening: Promise<void> = Promise.resolve()
  #byRoute = new Map<string, number>()
  #inFlight = 0
  #maxInFlight = 0
  #rejectedForFiber = 0
  #aborted = 0

  constructor(options: SimulatorOptions) {
    this.#options = options
    this.#host = options.host ?? '127.0.0.1'
    this.#fiber = options.fiber ?? 'present'
    this.#jobs = new Jobs(options.maxJobs ?? 30, options.jobDurationMs ?? 30_000)
    // Every delayed response listens to it.
    setMaxListeners(0, this.#closing.signal)
    this.#app = this.#buildApp()
    this.#server = this.#app.server
  }

  /** Called once, by `startSimulator`. */
  async start(port: number): Promise<void> {
    await this.#app.ready()
    await this.#listen(port)
    const address = this.#server.address()
    this.#port = typeof address === 'object' && address !== null ? address.port : port
    if (this.#options.scenario !== undefined) void this.#play(this.#options.scenario)
  }

  get port(): number {
    return this.#port
  }

  /** Where to send requests, without a trailing slash. */
  get url(): string {
    const host = { '0.0.0.0': '127.0.0.1', '::': '::1' }[this.#host] ?? this.#host
    return `http://${host.includes(':') ? `[${host}]` : host}:${this.#port}`
  }

  /** The running jobs, oldest first. */
  get jobs(): readonly Job[] {
    return this.#jobs.list()
  }

  get counters(): Counters {
    return {
      total: [...this.#byRoute.values()].reduce((sum, count) => sum + count, 0),
      byRoute: Object.fromEntries(this.#byRoute),
      inFlight: this.#inFlight,
      maxInFlight: this.#maxInFlight,
      rejectedForFiber: this.#rejectedForFiber,
      aborted: this.#aborted,
    }
  }

  resetCounters(): void {
    this.#byRoute.clear()
    this.#maxInFlight = this.#inFlight
    this.#rejectedForFiber = 0
    this.#aborted = 0
  }

  /** Changes the fiber at once and ends the scenario. Settles when the server listens again, if it was absent. */
  setFiber(state: Fiber): Promise<void> {
    this.#endScenario.abort()
    this.#fiber = state
    this.#absent = false
    return this.#followListening()
  }

  /**
   * Sets the fault of a route (`POST /configure`, `GET /metadata/:job_id`, or an unknown path) or of all routes (`*`),
   * or removes it with null. A route's own fault takes precedence over that of all routes. The fault is in effect on
   * return. The promise settles when the port is open again after a `refuse`.
   */
  setFault(route: string, fault: Fault | null): Promise<void> {
    if (fault === null) this.#faults.delete(route)
    else this.#faults.set(route, fault)
    if (fault?.kind === 'refuse' && fault.forMs !== undefined) {
      void this.#pause(fault.forMs).then(() => {
        if (this.#faults.get(route) === fault) void this.setFault(route, null)
      })
    }
    return this.#followListening()
  }

  /** Stops the simulator at once, with hanging responses, open sockets, jobs and timers. */
  async close(): Promise<void> {
    this.#endScenario.abort()
    this.#closing.abort()
    this.#jobs.clear()
    this.#refuse()
    await this.#listening
    await this.#app.close()
  }

  get #refuses(): boolean {
    return (
      this.#closing.signal.aborted ||
      this.#absent ||
      [...this.#faults.values()].some(fault => fault.kind === 'refuse')
    )
  }

  #refuse(): void {
    this.#server.close()
    this.#server.closeAllConnections()
  }

  #followListening(): Promise<void> {
    if (this.#refuses) this.#refuse()
    // Change the socket one step at a time: opening takes a moment, and a fault may be set and removed meanwhile.
    this.#listening = this.#listening.then(async () => {
      while (this.#refuses === this.#server.listening) {
        if (this.#refuses) this.#refuse()
        // The port may be used by an outgoing connection for a moment.
        else await this.#listen(this.#port).catch(() => this.#pause(20))
      }
    })
    return this.#listening
  }

  // Fastify's listen cannot be undone and repeated.
  async #listen(port: number): Promise<void> {
    this.#server.listen(port, this.#host)
    await once(this.#server, 'listening')
  }

  async #play(scenario: Scenario): Promise<void> {
    const startedAtMs = performance.now()
    while (!this.#endScenario.signal.aborted) {
      const elapsedMs = performance.now() - startedAtMs
      const state = fiberAt(scenario, elapsedMs)
      const wasAbsent = this.#absent
      this.#absent = state === 'absent'
      // A server that comes back has no fiber yet, unless the scenario states one.
      this.#fiber = state === 'absent' ? 'missing' : state
      if (wasAbsent !== this.#absent) void this.#followListening()
      await this.#pause(scenario.stepMs - (elapsedMs % scenario.stepMs), this.#endScenario.signal)
    }
  }

  /** Waits. Returns early when the simulator closes. */
  async #pause(ms: number, signal: AbortSignal = this.#closing.signal): Promise<void> {
    if (ms <= 0) return
    await sleep(ms, undefined, { signal }).catch(() => undefined)
  }

  async #takeTime(latencyMs: (draw: number) => number): Promise<void> {
    if (this.#options.latency === 'realistic')
      await this.#pause(latencyMs((this.#options.random ?? Math.random)()))
  }

  #buildApp(): FastifyInstance {
    const app = Fastify({
      logger: false,
      exposeHeadRoutes: false,
      bodyLimit: 2 ** 26,
      routerOptions: { maxParamLength: 4096 },
      rewriteUrl: pathOfStarlette,
    })
    app.removeAllContentTypeParsers()
    app.addContentTypeParser('*', { parseAs: 'buffer' }, (_request, body, done) => done(null, body))
    app.setErrorHandler<FastifyError>((error, _request, reply) => {
      sendJson(reply, error.statusCode ?? 500, { detail: error.message })
    })
    app.addHook('onRequest', async (request, reply) => this.#receive(request, reply))
    addEndpoints(app, {
      fiber: () => this.#fiber,
      jobs: this.#jobs,
      recordings: this.#options.recordings ?? recordings,
      historicWithoutFiber: this.#options.historicWithoutFiber ?? false,
      log: line => this.#options.log?.(line),
      rejectedForFiber: () => {
        this.#rejectedForFiber += 1
      },
      takeTime: latencyMs => this.#takeTime(latencyMs),
    })
    addControl(app, this)
    return app
  }

  async #receive(request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply | undefined> {
    reply.header('server', 'uvicorn')
    if (request.url.startsWith(controlPrefix)) return undefined
    const route = `${request.method} ${request.routeOptions.url ?? pathOf(request)}`
    this.#count(route, reply.raw)
    const fault = this.#faults.get(route) ?? this.#faults.get('*')
    if (fault === undefined || fault.kind === 'refuse') return undefined
    if (fault.kind === 'slow') {
      await this.#pause(fault.delayMs)
      return undefined
    }
    respondWithFault(fault, reply)
    return reply
  }

  #count(route: string, response: ServerResponse): void {
    this.#byRoute.set(route, (this.#byRoute.get(route) ?? 0) + 1)
    const isConfigure = route === configureRoute
    if (isConfigure) {
      this.#inFlight += 1
      this.#maxInFlight = Math.max(this.#maxInFlight, this.#inFlight)
    }
    response.once('close', () => {
      if (isConfigure) this.#inFlight -= 1
      if (!response.writableFinished) this.#aborted += 1
    })
  }
}
