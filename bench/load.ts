import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { createHistogram } from 'node:perf_hooks'
import type { Server } from './children.js'
import { cpuMs } from './cpu-time.js'
import { contentLength, MessageReader } from './message-reader.js'

/** What to send, to which server, and for how long. */
export type Load = {
  readonly server: Server
  /** The whole request, as it goes over the wire. */
  readonly request: Buffer
  /** The status that every response must have. */
  readonly status: number
  /** The number of connections. Each sends its next request when it has received the response to the previous one. */
  readonly connections: number
  readonly durationMs: number
}

/** The result of one stretch of load. */
export type Stretch = {
  /** Responses received while the clock ran. */
  readonly requests: number
  /** All requests sent, including those before the clock started and after it stopped. */
  readonly sent: number
  readonly elapsedMs: number
  /** Processor time of the server while the clock ran; undefined where it cannot be read. */
  readonly cpuMs: number | undefined
  readonly p50Ms: number
  readonly p99Ms: number
}

/** A limit for time and memory, far above the number of responses of any server in a stretch. */
const MAX_REQUESTS = 1_000_000

/**
 * The share of a stretch that passes before the clock starts. Meanwhile the proxies open the connections to the
 * upstream that they closed while the other servers were measured.
 */
const LEAD_IN_SHARE = 0.15

/** How long the last responses may take after the end of a stretch. */
const OVERDUE_MS = 10_000

/**
 * Sends the load and times each request, from its first byte sent to the last byte of its response.
 *
 * @throws if a response has another status or no `Content-Length`, or is missing.
 */
export async function measure(load: Load): Promise<Stretch> {
  const { hostname, port } = new URL(load.server.url)
  const sockets = await Promise.all(
    Array.from({ length: load.connections }, () => opened(hostname, Number(port))),
  )
  try {
    return await run(load, sockets)
  } finally {
    for (const socket of sockets) socket.destroy()
  }
}

async function opened(host: string, port: number): Promise<Socket> {
  const socket = connect({ host, port, noDelay: true })
  await once(socket, 'connect')
  return socket
}

function run({ server, request, status, durationMs }: Load, sockets: readonly Socket[]): Promise<Stretch> {
  return new Promise((resolve, reject) => {
    const latencyNs = createHistogram()
    const clock = new StretchClock(server.pid, durationMs)
    let sent = 0
    let answered = 0
    let busy = sockets.length

    const overdue = setTimeout(
      () => fail(`responses were still missing ${OVERDUE_MS} ms after the end`),
      durationMs + OVERDUE_MS,
    )
    const fail = (what: string) => {
      clearTimeout(overdue)
      reject(new Error(`load on ${server.url}: ${what}`))
    }
    const end = () => {
      clearTimeout(overdue)
      const { elapsedMs, cpuMs: used } = clock.stop(performance.now())
      if (answered === 0) return reject(new Error(`load on ${server.url}: no response in ${durationMs} ms`))
      resolve({
        requests: answered,
        sent,
        elapsedMs,
        cpuMs: used,
        p50Ms: latencyNs.percentile(50) / 1e6,
        p99Ms: latencyNs.percentile(99) / 1e6,
      })
    }
    for (const socket of sockets) {
      let sentAt = 0
      const send = (now: number) => {
        sent += 1
        sentAt = now
        socket.write(request)
      }
      const responses = new MessageReader({
        head: head => {
          const received = Number(head.slice('HTTP/1.1 '.length, 'HTTP/1.1 200'.length))
          if (received !== status) fail(`expected status ${status}, got ${received}`)
          const length = contentLength(head)
          if (length === undefined) fail(`a response without Content-Length:\n${head}`)
          return length ?? 0
        },
        end: () => {
          const now = performance.now()
          if (clock.isRunning(now)) {
            answered += 1
            latencyNs.record(Math.max(1, Math.round((now - sentAt) * 1e6)))
          }
          if (!clock.isOver(now) && sent < MAX_REQUESTS) return send(now)
          busy -= 1
          if (busy === 0) end()
        },
      })
      socket.on('data', chunk => responses.read(chunk))
      socket.on('error', error => fail(error.message))
      socket.on('close', () => fail('the server closed a connection'))
      send(performance.now())
    }
  })
}

/**
 * Runs from the first response after the lead-in to the first one after the end, and reads the processor time at both.
 */
class StretchClock {
  readonly #pid: number
  readonly #leadInEndsAt: number
  readonly #endsAt: number
  #started: { readonly at: number; readonly cpuMs: number | undefined } | undefined
  #stopped: { readonly elapsedMs: number; readonly cpuMs: number | undefined } | undefined

  constructor(pid: number, durationMs: number) {
    const now = performance.now()
    this.#pid = pid
    this.#leadInEndsAt = now + durationMs * LEAD_IN_SHARE
    this.#endsAt = now + durationMs
  }

  /** Whether a response that is complete now is counted. The first one only starts the clock. */
  isRunning(now: number): boolean {
    if (this.#stopped !== undefined || now < this.#leadInEndsAt) return false
    if (this.#started !== undefined) return true
    this.#started = { at: now, cpuMs: cpuMs(this.#pid) }
    return false
  }

  /** Whether to send no more requests. Stops the clock at the first response for which this is true. */
  isOver(now: number): boolean {
    if (this.#started === undefined || now < this.#endsAt) return false
    this.stop(now)
    return true
  }

  /** The time while the clock ran. Stops the clock if it is still running. */
  stop(now: number): { readonly elapsedMs: number; readonly cpuMs: number | undefined } {
    this.#stopped ??= {
      elapsedMs: now - (this.#started?.at ?? now),
      cpuMs: difference(cpuMs(this.#pid), this.#started?.cpuMs),
    }
    return this.#stopped
  }
}

function difference(after: number | undefined, before: number | undefined): number | undefined {
  return after === undefined || before === undefined ? undefined : after - before
}
