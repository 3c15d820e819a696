import type { FastifyInstance } from 'fastify'
import Type from 'typebox'
import type { Breaker } from '../breaker/breaker.js'
import { type Instant, rfc3339 } from '../domain/time.js'
import type { Cause, CircuitState } from '../domain/vocabulary.js'
import { Cause as CauseSchema, Nullable, State, Timestamp } from './schemas.js'

/** What the recent past needs. */
export type HistoryOptions = { readonly breaker: Breaker; readonly clock: () => Instant }

const MINUTE_MS = 60_000

/** How far back it goes. */
const MINUTES = 360

/** A circuit that flaps for hours has no more than that to tell. */
const MAX_STATES = 1000

const HistoryBody = Type.Object({
  /** From when on anything is known: the start of the process, or six hours ago. */
  from: Timestamp,
  to: Timestamp,
  /** The state at `from`, and each one since; it lasts until the next. `cause` is null when closed. */
  states: Type.Array(
    Type.Object({
      from: Timestamp,
      state: State,
      cause: Nullable(CauseSchema),
    }),
  ),
  /** The minutes in which guarded requests were refused, oldest first; in all others none was. */
  refused: Type.Array(Type.Object({ minute: Timestamp, count: Type.Integer() })),
})

/** A state of the circuit, with its cause, and from when on it stood. */
type Spell = Stand & { readonly from: Instant }
type Stand = { readonly state: CircuitState; readonly cause: Cause | null }

function standOf(breaker: Breaker): Stand {
  const { circuit } = breaker.snapshot()
  return { state: circuit.state, cause: circuit.state === 'closed' ? null : circuit.cause }
}

/** `GET /-/history`: the states and the refusals per minute of the last hours, as the page draws them. */
export function history(app: FastifyInstance, { breaker, clock }: HistoryOptions): void {
  const startedAt = clock()
  let states: Spell[] = [{ from: startedAt, ...standOf(breaker) }]
  const refused = new Map<number, number>()
  const forget = (before: Instant) => {
    for (const minute of refused.keys()) if ((minute + 1) * MINUTE_MS <= before) refused.delete(minute)
    // The one that began before is the one that stood then.
    const first = states.findLastIndex(({ from }) => from <= before)
    states = states.slice(Math.max(0, first, states.length - MAX_STATES))
  }
  const note = ({ at }: { readonly at: Instant }) => {
    states.push({ from: at, ...standOf(breaker) })
    forget(clock() - MINUTES * MINUTE_MS)
  }
  breaker.on('transition', note)
  breaker.on('cause', note)
  breaker.on('refused', ({ enforced }) => {
    if (!enforced) return
    const minute = Math.floor(clock() / MINUTE_MS)
    const count = refused.get(minute)
    if (count === undefined) forget(clock() - MINUTES * MINUTE_MS)
    refused.set(minute, (count ?? 0) + 1)
  })
  app.get(
    '/-/history',
    {
      schema: {
        summary: 'States and refusals per minute of the last hours.',
        response: { 200: HistoryBody },
      },
    },
    (_request, reply) => {
      const now = clock()
      const from = Math.max(startedAt, now - MINUTES * MINUTE_MS)
      forget(from)
      reply.header('cache-control', 'no-store').send({
        from: rfc3339(from),
        to: rfc3339(now),
        states: states.map(each => ({ ...each, from: rfc3339(Math.max(from, each.from)) })),
        refused: [...refused].map(([minute, count]) => ({ minute: rfc3339(minute * MINUTE_MS), count })),
      })
    },
  )
}
