import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { createHistogram } from 'node:perf_hooks'

/** What to send, to whom, and for how long. */
export type Load = {
  readonly url: URL
  /** The whole request, as it goes over the wire. */
  readonly request: Buffer
  /** The status that every answer has to have. */
  readonly status: number
  /** How many connections send at the same time, each its next request when the last one is answered. */
  readonly connections: number
  readonly durationMs: number
  readonly maxRequests: number
}

/** What one stretch of load came to. */
export type Measured = {
  readonly requests: number
  readonly perSecond: number
  readonly p50Ms: number
  readonly p99Ms: number
  /** How much of one core the generator itself used, 0 to 1: near 1 it was the limit, and not the server. */
  readonly generatorBusy: number
}

/** How long the last answers may take after the end of a stretch. */
const OVERDUE_MS = 10_000

/**
 * Sends the load and times each exchange, from writing the request to the last byte of its answer.
 *
 * The connections are opened before the clock starts and closed after it has stopped.
 *
 * @throws when an answer has another status, has no `Content-Length`, or does not come.
 */
export async function measure(load: Load): Promise<Measured> {
  const sockets = await Promise.all(Array.from({ length: load.connections }, () => opened(load.url)))
  try {
    return await run(load, sockets)
  } finally {
    for (const socket of sockets) socket.destroy()
  }
}

async function opened({ hostname, port }: URL): Promise<Socket> {
  const socket = connect({ host: hostname, port: Number(port), noDelay: true })
  await once(socket, 'connect')
  return socket
}

function run(load: Load, sockets: readonly Socket[]): Promise<Measured> {
  return new Promise((resolve, reject) => {
    const latencyNs = createHistogram()
    const cpuBefore = process.cpuUsage()
    const startedAt = performance.now()
    const deadline = startedAt + load.durationMs
    const overdue = setTimeout(
      () => fail(`answers were still missing ${OVERDUE_MS} ms after the end`),
      load.durationMs + OVERDUE_MS,
    )
    let sent = 0
    let busy = sockets.length

    const fail = (what: string) => {
      clearTimeout(overdue)
      reject(new Error(`load on ${load.url.href}: ${what}`))
    }
    const end = (now: number) => {
      clearTimeout(overdue)
      const elapsedMs = now - startedAt
      const { user, system } = process.cpuUsage(cpuBefore)
      resolve({
        requests: latencyNs.count,
        perSecond: (latencyNs.count / elapsedMs) * 1000,
        p50Ms: latencyNs.percentile(50) / 1e6,
        p99Ms: latencyNs.percentile(99) / 1e6,
        generatorBusy: (user + system) / 1000 / elapsedMs,
      })
    }
    for (const socket of sockets) {
      let sentAt = 0
      const send = (now: number) => {
        sent += 1
        sentAt = now
        socket.write(load.request)
      }
      const answers = new AnswerReader(fail, status => {
        const now = performance.now()
        if (status !== load.status) return fail(`expected status ${load.status}, got ${status}`)
        latencyNs.record(Math.max(1, Math.round((now - sentAt) * 1e6)))
        if (now < deadline && sent < load.maxRequests) return send(now)
        busy -= 1
        if (busy === 0) end(now)
      })
      socket.on('data', chunk => answers.read(chunk))
      socket.on('error', error => fail(error.message))
      socket.on('close', () => fail('the server closed a connection'))
      send(performance.now())
    }
  })
}

const NOTHING = Buffer.alloc(0)

/**
 * Finds where each answer on a connection ends.
 *
 * It reads no more of HTTP than our servers send: any client library costs more than the servers that are to
 * be measured, and on a machine of two cores the bench would then measure the library.
 */
class AnswerReader {
  readonly #fail: (what: string) => void
  readonly #answered: (status: number) => void
  #head: Buffer = NOTHING
  #status = 0
  /** Of the answer's body; undefined while its head is not complete. */
  #bytesLeft: number | undefined

  constructor(fail: (what: string) => void, answered: (status: number) => void) {
    this.#fail = fail
    this.#answered = answered
  }

  read(chunk: Buffer): void {
    if (this.#bytesLeft !== undefined) {
      this.#take(this.#bytesLeft, chunk.length)
      return
    }
    const received = this.#head.length === 0 ? chunk : Buffer.concat([this.#head, chunk])
    const end = received.indexOf('\r\n\r\n')
    if (end === -1) {
      this.#head = received
      return
    }
    const head = received.toString('latin1', 0, end)
    const length = /\r\ncontent-length: *(\d+)/i.exec(head)?.[1]
    if (length === undefined) {
      this.#fail(`an answer without Content-Length:\n${head}`)
      return
    }
    this.#head = NOTHING
    this.#status = Number(head.slice('HTTP/1.1 '.length, 'HTTP/1.1 200'.length))
    this.#take(Number(length), received.length - end - '\r\n\r\n'.length)
  }

  #take(expected: number, given: number): void {
    this.#bytesLeft = given < expected ? expected - given : undefined
    if (given > expected) this.#fail('more bytes than the answer has')
    else if (given === expected) this.#answered(this.#status)
  }
}
