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
import { answerWithFault, type Fault } from './fault-injection.js'
import { type Job, Jobs } from './jobs.js'
import { pathOf, sendJson } from './received.js'
import { type Recording, recordings } from './samples.js'
import { type Fiber, fiberAt, type Scenario } from './scenario.js'

/** How the simulator behaves; every field has a default. */
export interface SimulatorOptions {
  /** `127.0.0.1`. */
  readonly host?: string
  /** 0: any free port, see `Simulator.port`. */
  readonly port?: number
  /** The fiber at the start, `present`, until `setFiber`. Ignored with a `scenario`. */
  readonly fiber?: Fiber
  /** Moves the fiber by the clock from the moment of listening, until `setFiber` takes over. */
  readonly scenario?: Scenario
  /** `none`, the default, answers at once; `realistic` takes as long as was measured. */
  readonly latency?: 'realistic' | 'none'
  /** 30: how many jobs run at the same time before a configure is answered 503. */
  readonly maxJobs?: number
  /** 30000: after this a job ends by itself. */
  readonly jobDurationMs?: number
  /** False: whether historic jobs start while the fiber is missing, as a site was once seen to do. */
  readonly historicWithoutFiber?: boolean
  /** The stretches of stored data; `recordings` of `samples.ts`. */
  readonly recordings?: readonly Recording[]
  /** Given each line that the real server would log about a refused configure; silent by default. */
  readonly log?: (line: string) => void
  /** `Math.random`: draws the latencies. */
  readonly random?: () => number
}

/** What has reached the simulator since the start or the last reset. Control requests are not counted. */
export interface Counters {
  readonly total: number
  /** By `METHOD /route`; by `METHOD /path` where there is no such route. A route never asked for has no entry. */
  readonly byRoute: Readonly<Record<string, number>>
  /** Requests of `POST /configure` whose exchange is not over. A reset leaves it as it is. */
  readonly inFlight: number
  readonly maxInFlight: number
  /** Requests of `POST /configure` that were refused because the fiber was not there. */
  readonly rejectedForFiber: number
  /** Exchanges that ended before the whole answer was sent, whichever side ended them. */
  readonly aborted: number
}

const configureRoute = 'POST /configure'

/** Starts a stand-in for focus-server on a real port; rejects when the port cannot be had. */
export async function startSimulator(options: SimulatorOptions = {}): Promise<Simulator> {
  const simulator = new Simulator(options)
  await simulator.start(options.port ?? 0)
  return simulator
}

/** A running simulated focus-server. Made by `startSimulator`. */
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
    // Every delayed answer waits on it.
    setMaxListeners(0, this.#closing.signal)
    this.#app = this.#buildApp()
    this.#server = this.#app.server
  }

  /** Called by `startSimulator`, once. */
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

  /** Where to send requests, without a slash at the end. */
  get url(): string {
    const host = { '0.0.0.0': '127.0.0.1', '::': '::1' }[this.#host] ?? this.#host
    return `http://${host.includes(':') ? `[${host}]` : host}:${this.#port}`
  }

  /** The jobs that run now, oldest first. */
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

  /** Changes the fiber at once and ends the scenario; settles when a server that was absent in it listens again. */
  setFiber(state: Fiber): Promise<void> {
    this.#endScenario.abort()
    this.#fiber = state
    this.#absent = false
    return this.#followListening()
  }

  /**
   * Switches the fault of a route (`POST /configure`, `GET /metadata/:job_id`, or a path that has no route) or of all
   * routes (`*`) on, or off with null; a route's own fault goes before that of all. It is in effect on return; the
   * promise settles when the port is open again after a `refuse`.
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

  /** Ends it at once: hanging answers, open sockets, jobs, timers. */
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
    // One change of the socket at a time: opening takes a moment, and a fault may come and go meanwhile.
    this.#listening = this.#listening.then(async () => {
      while (this.#refuses === this.#server.listening) {
        if (this.#refuses) this.#refuse()
        // The port may be lent to somebody's outgoing connection for a moment.
        else await this.#listen(this.#port).catch(() => this.#pause(20))
      }
    })
    return this.#listening
  }

  // Not Fastify's listen: that one cannot be undone and done again.
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
      // A server that comes back has no fiber yet, unless the scenario says so.
      this.#fiber = state === 'absent' ? 'missing' : state
      if (wasAbsent !== this.#absent) void this.#followListening()
      await this.#pause(scenario.stepMs - (elapsedMs % scenario.stepMs), this.#endScenario.signal)
    }
  }

  /** Waits, and returns early when the simulator closes. */
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
    answerWithFault(fault, reply)
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
