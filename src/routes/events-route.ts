import type { ServerResponse } from 'node:http'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { givesWay } from '../domain/fair-share.js'
import type { EventRing, PublishedEvent, Seen } from '../observability/event-ring.js'
import { type Connections, whenOver } from '../server/connection.js'
import { sendError } from '../server/error-response.js'

/** Dependencies of the route. */
export type EventsOptions = {
  readonly connections: Connections
  /** The address by which streams are counted. */
  readonly addressOf: (request: FastifyRequest) => string
}

/** Maximum number of open streams; each takes a connection. */
const MAX_LISTENERS = 1000

/** How often a comment is sent, so that gateways do not close the stream as idle (an nginx ingress: 60 s). */
const HEARTBEAT_MS = 15_000

/** How long a browser waits before it reconnects, in milliseconds. */
const RETRY_MS = 3000

/** A client with more unread bytes is disconnected. It can resume. */
const MAX_UNREAD_BYTES = 262_144

/**
 * `GET /-/events`: a stream of server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html).
 * `Last-Event-ID` resumes the stream: a client that has missed more events than are kept gets those that are kept.
 *
 * A gateway may move a client here from another replica. Events that the client has seen there are not sent again, even
 * if this replica publishes them later.
 *
 * No client can use up all streams. At the limit, a new stream replaces the newest stream of the client that has the
 * most of them.
 */
export function events(
  app: FastifyInstance,
  ring: EventRing,
  { connections, addressOf }: EventsOptions,
): void {
  const listeners = new Map<ServerResponse, Seen | undefined>()
  const byClient = new Map<string, Set<ServerResponse>>()
  let isClosing = false
  const send = (listener: ServerResponse, text: string) => {
    if (listener.writableLength <= MAX_UNREAD_BYTES) listener.write(text)
    else {
      listeners.delete(listener)
      listener.destroy()
    }
  }
  const add = (listener: ServerResponse, client: string, seen: Seen | undefined) => {
    const same = byClient.get(client) ?? new Set()
    byClient.set(client, same.add(listener))
    listeners.set(listener, seen)
    whenOver(listener, () => {
      listeners.delete(listener)
      same.delete(listener)
      if (same.size === 0 && byClient.get(client) === same) byClient.delete(client)
    })
  }
  const closeNewest = (client: string): boolean => {
    const newest = [...(byClient.get(givesWay(byClient, client) ?? '') ?? [])].at(-1)
    newest?.destroy()
    return newest !== undefined
  }
  const sendToAll = (event: PublishedEvent) => {
    for (const [listener, seen] of listeners) {
      if (seen === undefined || !ring.isSeen(event, seen)) send(listener, event.text)
    }
  }
  ring.listen(sendToAll)
  const heartbeat = setInterval(() => sendToAll({ text: ': still here\n\n' }), HEARTBEAT_MS).unref()
  app.get(
    '/-/events',
    {
      schema: {
        summary:
          'Server-sent events: transition, reading, override, refused. Last-Event-ID resumes the stream.',
        mediaTypes: ['text/event-stream'],
      },
    },
    (request, reply) => {
      const client = addressOf(request)
      if (isClosing || (listeners.size >= MAX_LISTENERS && !closeNewest(client))) {
        reply.header('retry-after', 5)
        const message = isClosing
          ? 'focus-breaker is shutting down.'
          : `The limit of ${MAX_LISTENERS} event streams is reached.`
        return sendError(reply, 503, 'Service Unavailable', message)
      }
      const { raw } = reply
      // The responses to later requests on the connection would never be sent.
      if (connections.isPipelined(request.raw)) {
        return sendError(reply, 400, 'Bad Request', 'A pipelined request cannot open an event stream.')
      }
      reply.hijack()
      raw.writeHead(200, {
        ...Object.fromEntries(
          Object.entries(reply.getHeaders()).map(([name, value]) => [name, String(value)]),
        ),
        'content-type': 'text/event-stream; charset=utf-8',
        'cache-control': 'no-store',
        // Without it nginx buffers small writes.
        'x-accel-buffering': 'no',
      })
      if (request.method === 'HEAD') {
        raw.end()
        return
      }
      raw.write(`retry: ${RETRY_MS}\n\n`)
      const lastId = request.headers['last-event-id']?.toString()
      const missed = ring.after(lastId)
      if (missed !== '') raw.write(missed)
      add(raw, client, ring.seenElsewhere(lastId))
      raw.on('error', () => listeners.delete(raw))
    },
  )
  app.addHook('preClose', done => {
    isClosing = true
    clearInterval(heartbeat)
    ring.close()
    for (const listener of listeners.keys()) listener.end()
    done()
  })
}
