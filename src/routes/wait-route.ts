import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { Breaker } from '../breaker/breaker.js'
import { type Instant, inWords, parseSpan } from '../domain/time.js'
import { sendError } from '../server/error-response.js'
import { whenGone } from '../server/request-checks.js'
import { FiberBody } from './schemas.js'

/** What waiting for the fiber needs. */
export type WaitOptions = {
  readonly breaker: Breaker
  readonly clock: () => Instant
  /** In [0, 1). */
  readonly random: () => number
  /** Answers as `GET /-/fiber` does at this moment. */
  readonly answer: (request: FastifyRequest, reply: FastifyReply) => void
}

/** How long is waited where nobody says: less than the minute after which nginx gives up by default. */
const DEFAULT_WAIT_MS = 55_000
const MAX_WAIT_MS = 3_600_000

/** Who comes when as many wait is answered at once; each costs a connection and a few hundred bytes. */
const MAX_WAITING = 20_000

/** How often the circuit and the ends of patience are looked at while anybody waits. */
const TICK_MS = 50

/** How many are told with one tick that their time is over: each answer costs a part of a millisecond. */
const MAX_OVER_PER_TICK = 200

/** The crowd is let go over a span that grows with it, up to this. */
const SPREAD_PER_WAITER_MS = 20
const MAX_SPREAD_MS = 5000

/**
 * `GET /-/wait?timeout=60s`: held until a guarded request would be admitted, or until the time is over; then
 * answered as `GET /-/fiber`. Nobody has a place for having waited: the request that follows is judged anew.
 */
export function wait(app: FastifyInstance, options: WaitOptions): void {
  const { breaker, clock, answer } = options
  const crowd = new Crowd(options)
  app.get(
    '/-/wait',
    {
      schema: {
        summary: 'Held until it would be admitted, or until the time is over.',
        parameters: { timeout: { description: 'How long, at most an hour.', example: '55s' } },
        response: { 200: FiberBody },
      },
    },
    (request, reply) => {
      const timeout = new URLSearchParams(request.url.split('?')[1]).get('timeout')
      const waitMs = timeout === null ? DEFAULT_WAIT_MS : parseSpan(timeout)
      if (waitMs === undefined || waitMs > MAX_WAIT_MS) {
        const expected = `timeout: expected a span of at most ${inWords(MAX_WAIT_MS)}, like 60s or 10m`
        return sendError(reply, 400, 'Bad Request', `${expected}; given ${timeout?.slice(0, 64)}.`)
      }
      const isOver = waitMs === 0 || (breaker.decide().admitted && crowd.size === 0)
      if (isOver || crowd.size >= MAX_WAITING) return answer(request, reply)
      const leave = crowd.enter(clock() + waitMs, () => answer(request, reply))
      whenGone(reply, leave)
    },
  )
  app.addHook('preClose', done => {
    crowd.close()
    done()
  })
}

type Waiter = { readonly until: Instant; readonly released: () => void; place: number }

/**
 * Those who wait for the fiber. One timer serves them all, and runs while there is anybody; they are let go
 * in no order, spread over some time, and only while the circuit admits.
 */
class Crowd {
  readonly #options: Pick<WaitOptions, 'breaker' | 'clock' | 'random'>
  readonly #waiters: Waiter[] = []
  #timer: NodeJS.Timeout | undefined
  #isClosed = false
  /** How many may go with one tick, for as long as there is anybody. */
  #perTick = 1

  constructor(options: Pick<WaitOptions, 'breaker' | 'clock' | 'random'>) {
    this.#options = options
  }

  get size(): number {
    return this.#waiters.length
  }

  /** Calls `released` once, in time; the function that it returns leaves without that. */
  enter(until: Instant, released: () => void): () => void {
    const waiter: Waiter = { until, released, place: this.#waiters.length }
    this.#waiters.push(waiter)
    if (this.#isClosed) this.#release(waiter)
    else this.#timer ??= setInterval(() => this.#tick(), TICK_MS).unref()
    return () => this.#remove(waiter)
  }

  /** Lets everybody go, now and from now on. */
  close(): void {
    this.#isClosed = true
    for (const waiter of [...this.#waiters]) this.#release(waiter)
  }

  #tick(): void {
    const { breaker, clock, random } = this.#options
    const now = clock()
    let over = 0
    // Backwards, because the place of who leaves is taken by the last.
    for (let place = this.size - 1; place >= 0 && over < MAX_OVER_PER_TICK; place -= 1) {
      const waiter = this.#waiters[place]
      if (waiter === undefined || now < waiter.until) continue
      this.#release(waiter)
      over += 1
    }
    const decision = breaker.decide()
    // The pace is that of the crowd which the recovery finds, not of a larger one that lost its patience before.
    if (!decision.admitted && decision.code !== 'recovering') this.#perTick = 1
    if (!decision.admitted || this.size === 0) return
    const ticks = Math.ceil(Math.min(this.size * SPREAD_PER_WAITER_MS, MAX_SPREAD_MS) / TICK_MS)
    this.#perTick = Math.max(this.#perTick, Math.ceil(this.size / ticks))
    for (let count = 0; count < this.#perTick && breaker.decide().admitted; count += 1) {
      const waiter = this.#waiters[Math.floor(random() * this.size)]
      if (waiter !== undefined) this.#release(waiter)
    }
  }

  #release(waiter: Waiter): void {
    if (this.#remove(waiter)) waiter.released()
  }

  /** The last one takes the place that becomes free. */
  #remove(waiter: Waiter): boolean {
    if (this.#waiters[waiter.place] !== waiter) return false
    const last = this.#waiters.pop()
    if (last !== undefined && last !== waiter) {
      last.place = waiter.place
      this.#waiters[waiter.place] = last
    }
    if (this.size === 0) {
      clearInterval(this.#timer)
      this.#timer = undefined
      this.#perTick = 1
    }
    return true
  }
}
