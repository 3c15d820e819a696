import assert from 'node:assert/strict'
import type { TestContext } from 'node:test'
import { Breaker, type Outcome, type Past, type Settings } from '../../src/breaker/breaker.js'
import type { Client, Refusal } from '../../src/breaker/events.js'
import type { Decision } from '../../src/domain/decision.js'
import { readings, recovery, thresholds } from './play.js'

/** The defaults of the configuration, with the ramp of the drawn histories. */
export const SETTINGS: Settings = {
  thresholds,
  recovery,
  probePeriodMs: 2000,
  maxConcurrency: 0,
  mode: 'enforce',
}

export const CLIENT: Client = {
  address: '192.0.2.7',
  userAgent: 'test',
  request: 'POST /configure 2',
  run: undefined,
}
export const OPERATOR = '192.0.2.9'

/** The possible outcomes of a guarded request. */
export const answered = (statusCode: number): Outcome => ({ kind: 'answered', statusCode })
export const missingFiber: Outcome = { kind: 'missing-fiber', missing: ['prr'] }

/** A breaker whose clock is moved by hand, and all its events except those about free slots. */
export function setUp(settings: Partial<Settings> = {}, past: Past = {}, start = 0) {
  let now = start
  let current: Settings = { ...SETTINGS, ...settings }
  const clock = () => now
  const breaker = new Breaker(() => current, clock, past)
  const emitted: string[] = []
  breaker.on('reading', ({ kind, source }) =>
    emitted.push(source === 'probe' ? kind : `${kind} by ${source}`),
  )
  breaker.on('cause', ({ from, to }) => emitted.push(`${from} became ${to}`))
  breaker.on('transition', ({ from, to, cause, outageMs }) => {
    emitted.push(`${from} to ${to}, ${cause}, after ${outageMs} ms`)
  })
  breaker.on('refused', ({ decision, enforced }) => {
    emitted.push(`${enforced ? 'refused' : 'would refuse'}: ${decision.code}`)
  })
  breaker.on('probeRequested', () => emitted.push('probe requested'))
  breaker.on('disagreement', ({ since, missing }) => emitted.push(`disagreement since ${since}: ${missing}`))
  breaker.on('override', event => {
    const { state, reason } = event.override
    const more =
      event.kind === 'set'
        ? event.replaced && `over ${event.replaced.reason}`
        : event.kind === 'removed' && event.override.endedBy
    emitted.push([`override ${state} ${event.kind}: ${reason}`, ...(more ? [more] : [])].join(', '))
  })
  return {
    breaker,
    emitted,
    clock,
    /** Feeds the breaker a drawn history, one reading per second. */
    see(drawing: string) {
      for (const reading of readings(drawing, now)) {
        now = reading.at
        breaker.observe(reading)
      }
    },
    pass(ms: number) {
      now += ms
    },
    /** Applies options as a reload of the configuration does. */
    change(changed: Partial<Settings>) {
      current = { ...current, ...changed }
    },
    state: () => breaker.snapshot().circuit.state,
  }
}

/** The same, with timers that follow its clock. */
export function setUpWithTimers(t: TestContext, settings: Partial<Settings> = {}) {
  const all = setUp(settings)
  // After opossum has started the interval of its statistics, which would otherwise run once for each second that
  // passes.
  t.mock.timers.enable({ apis: ['setTimeout', 'setInterval'] })
  return {
    ...all,
    /** Advances the time in steps, as the timers of a process see it. */
    pass(ms: number, stepMs = ms) {
      for (let left = ms; left > 0; left -= stepMs) {
        all.pass(Math.min(stepMs, left))
        t.mock.timers.tick(Math.min(stepMs, left))
      }
    },
  }
}

/** A guarded request was not admitted. */
export class RefusedError extends Error {
  override readonly name = 'RefusedError'
  readonly decision: Refusal

  constructor(decision: Refusal) {
    super('the circuit does not admit this request')
    this.decision = decision
  }
}

/** A guarded request ended for a reason unrelated to focus-server. */
export class NothingLearnedError extends Error {
  override readonly name = 'NothingLearnedError'
}

/**
 * Runs a guarded request as a promise: it is in flight until `forward` settles, and a rejection is a failure.
 *
 * @throws {RefusedError} if it is not admitted; `forward` is not called then.
 */
export async function run(
  breaker: Breaker,
  forward: () => Promise<Outcome>,
  needsFiber = true,
): Promise<void> {
  const admission = breaker.admit(needsFiber)
  if (!admission.admitted) throw new RefusedError(admission)
  const { permit } = admission
  try {
    permit.settle(await forward())
  } catch (error) {
    permit.settle({ kind: error instanceof NothingLearnedError ? 'nothing-learned' : 'failed' })
  }
}

/** A guarded request that the test ends. */
export function hold(breaker: Breaker, needsFiber = true) {
  const { promise, resolve, reject } = withResolvers()
  let began = false
  const done = run(
    breaker,
    () => {
      began = true
      return promise
    },
    needsFiber,
  )
  // The test inspects the promise when it needs to.
  done.catch(() => undefined)
  const end = (outcome: Outcome = answered(200)) => {
    resolve(outcome)
    return done
  }
  const fail = (error: Error) => {
    reject(error)
    return done
  }
  return { done, end, fail, began: () => began }
}

/** Asks for admission as a client's request does: a refusal is reported. */
export function ask(breaker: Breaker, client: Partial<Client> = {}): Decision {
  const decision = breaker.decide()
  if (!decision.admitted) breaker.refused(decision, { ...CLIENT, ...client })
  return decision
}

/** The reason why a request would be refused now, or undefined if it would be admitted. */
export function verdict(breaker: Breaker): string {
  const decision = breaker.decide()
  return decision.admitted ? 'admitted' : `${decision.code} in ${decision.retryInMs} ms`
}

/** Whether a request is actually forwarded now. */
export async function forwards(breaker: Breaker): Promise<boolean> {
  const request = hold(breaker)
  const began = request.began()
  // The outcome has no consequences: it counts neither as a success nor as a failure of the upstream.
  if (began) await request.end(answered(404))
  else await assert.rejects(request.done, { name: 'RefusedError' })
  return began
}

/** `Promise.withResolvers`, which Node 20 does not have. */
function withResolvers() {
  let resolve = (_outcome: Outcome) => {}
  let reject = (_error: Error) => {}
  const promise = new Promise<Outcome>((onResolve, onReject) => {
    resolve = onResolve
    reject = onReject
  })
  return { promise, resolve, reject }
}
