import type { ServerResponse } from 'node:http'
import type { FastifyInstance } from 'fastify'
import type { Breaker } from '../breaker/breaker.js'
import { overrideAsJson } from '../domain/override.js'
import type { Reading } from '../domain/reading.js'
import { type Instant, rfc3339 } from '../domain/time.js'
import { sendError } from '../server/error-response.js'

/** What the stream of events needs. */
export type EventsOptions = {
  readonly breaker: Breaker
  readonly clock: () => Instant
  /** Tells this process from another one: an id of another one resumes nothing. */
  readonly startedAt: Instant
}

/** How many events are kept for who comes back. */
const RING_SIZE = 1000

/** Who listens at a time; each has a connection. */
const MAX_LISTENERS = 1000

/** A comment that often keeps gateways from taking the stream for dead (an nginx ingress: 60 s). */
const HEARTBEAT_MS = 15_000

/** How long a browser waits before it comes back, in milliseconds. */
const RETRY_MS = 3000

/** Who has so much unread is dropped, and can resume. */
const MAX_UNREAD_BYTES = 262_144

/** A reading that says nothing new is told at most that often. */
const READING_SPACING_MS = 1000

/** Refusals are told as a sum, at most that often. */
const REFUSED_SPACING_MS = 1000

type Event = { readonly number: number; readonly text: string }

/**
 * `GET /-/events`: server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html):
 * `transition`, `reading`, `override`, and `refused` with the number since the last of its kind.
 * `Last-Event-ID` resumes; who has missed more than is kept gets what there is.
 */
export function events(app: FastifyInstance, { breaker, clock, startedAt }: EventsOptions): void {
  const epoch = Math.round(startedAt).toString(36)
  const ring: Event[] = []
  const listeners = new Set<ServerResponse>()
  let count = 0
  let isClosing = false
  const publish = (type: string, data: object) => {
    count += 1
    const text = `id: ${epoch}-${count}\nevent: ${type}\ndata: ${JSON.stringify(data)}\n\n`
    ring.push({ number: count, text })
    if (ring.length > RING_SIZE) ring.shift()
    for (const listener of listeners) send(listener, text)
  }

  breaker.on('transition', ({ at, from, to, cause, outageMs, reading }) =>
    publish('transition', {
      at: rfc3339(at),
      from,
      to,
      cause,
      outageSeconds: Math.round(outageMs / 1000),
      source: reading.source,
    }),
  )
  breaker.on('cause', ({ at, from, to, outageMs, reading }) =>
    publish('transition', {
      at: rfc3339(at),
      from: 'open',
      to: 'open',
      cause: to,
      earlierCause: from,
      outageSeconds: Math.round(outageMs / 1000),
      source: reading.source,
    }),
  )
  breaker.on('override', event =>
    publish('override', { kind: event.kind, ...overrideAsJson(event.override) }),
  )
  let told: Reading | undefined
  breaker.on('reading', reading => {
    if (told?.kind === reading.kind && reading.at - told.at < READING_SPACING_MS) return
    told = reading
    publish('reading', { ...reading, at: rfc3339(reading.at) })
  })
  // Told one interval late: the ledger keeps its counts within half of one, so what is told is on disk.
  let ripe = 0
  let fresh = 0
  let refusedTimer: NodeJS.Timeout | undefined
  const tellRefused = () => {
    if (ripe > 0) publish('refused', { at: rfc3339(clock()), count: ripe })
    ripe = fresh
    fresh = 0
    refusedTimer = ripe > 0 ? setTimeout(tellRefused, REFUSED_SPACING_MS).unref() : undefined
  }
  breaker.on('refused', ({ enforced }) => {
    if (!enforced) return
    fresh += 1
    refusedTimer ??= setTimeout(tellRefused, REFUSED_SPACING_MS).unref()
  })

  const heartbeat = setInterval(() => {
    for (const listener of listeners) send(listener, ': still here\n\n')
  }, HEARTBEAT_MS).unref()

  app.get(
    '/-/events',
    {
      schema: {
        summary: 'Server-sent events: transition, reading, override, refused. Last-Event-ID resumes.',
        mediaTypes: ['text/event-stream'],
      },
    },
    (request, reply) => {
      if (isClosing || listeners.size >= MAX_LISTENERS) {
        reply.header('retry-after', 5)
        const message = isClosing
          ? 'This is shutting down.'
          : `At most ${MAX_LISTENERS} may listen at a time.`
        return sendError(reply, 503, 'Service Unavailable', message)
      }
      const { raw } = reply
      if (raw.socket === null) {
        // Behind an unanswered request of its connection nobody could read it in time, nor would its end be told.
        return sendError(reply, 400, 'Bad Request', 'A stream of events cannot be pipelined.')
      }
      reply.hijack()
      raw.writeHead(200, {
        ...Object.fromEntries(
          Object.entries(reply.getHeaders()).map(([name, value]) => [name, String(value)]),
        ),
        'content-type': 'text/event-stream; charset=utf-8',
        'cache-control': 'no-store',
        // nginx would hold small pieces back.
        'x-accel-buffering': 'no',
      })
      if (request.method === 'HEAD') {
        raw.end()
        return
      }
      raw.write(`retry: ${RETRY_MS}\n\n`)
      const [ofEpoch, last] = (request.headers['last-event-id']?.toString() ?? '').split('-')
      // An id of another process, or none: nothing is missed that the state itself would not tell.
      const since = ofEpoch === epoch ? Number(last) : count
      const missed = ring.filter(event => event.number > since)
      if (missed.length > 0) raw.write(missed.map(event => event.text).join(''))
      listeners.add(raw)
      raw.once('close', () => listeners.delete(raw))
      raw.on('error', () => listeners.delete(raw))
    },
  )
  app.addHook('preClose', done => {
    isClosing = true
    clearInterval(heartbeat)
    clearTimeout(refusedTimer)
    for (const listener of listeners) listener.end()
    done()
  })

  const send = (listener: ServerResponse, text: string) => {
    if (listener.writableLength <= MAX_UNREAD_BYTES) listener.write(text)
    else {
      listeners.delete(listener)
      listener.destroy()
    }
  }
}
