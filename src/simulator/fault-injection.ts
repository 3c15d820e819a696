import { STATUS_CODES } from 'node:http'
import { Readable } from 'node:stream'
import type { FastifyReply } from 'fastify'
import { isObject } from './configure-body.js'
import { sendBytes } from './received.js'

/** A fault that can be set on a route while the simulator runs. */
export type Fault =
  /** Returns this status (200 to 599) with a body in FastAPI's format. */
  | { readonly kind: 'status'; readonly code: number }
  /** Returns 200 with an HTML page, like a misconfigured ingress. */
  | { readonly kind: 'html' }
  /** Reads the request and never responds. */
  | { readonly kind: 'hang' }
  /**
   * Returns 200 with at least this many bytes of valid JSON that describes a connected fiber; endless without `bytes`.
   */
  | { readonly kind: 'huge'; readonly bytes?: number }
  /** The server does not listen, whatever the route. Ends automatically after `forMs`. */
  | { readonly kind: 'refuse'; readonly forMs?: number }
  /** Resets the connection (RST) instead of responding. */
  | { readonly kind: 'reset' }
  /** Returns exactly this response. */
  | {
      readonly kind: 'body'
      readonly status: number
      readonly contentType: string
      readonly body: string | Uint8Array
    }
  /** Responds as usual, after a delay. */
  | { readonly kind: 'slow'; readonly delayMs: number }

/** Faults that affect the response. The other two affect the listening socket and the timing. */
export type ResponseFault = Exclude<Fault, { kind: 'refuse' } | { kind: 'slow' }>

/** Responds, or fails to respond, according to the fault. */
export function respondWithFault(fault: ResponseFault, reply: FastifyReply): void {
  switch (fault.kind) {
    case 'status': {
      // These two must not have a body; Node would throw.
      if (fault.code === 204 || fault.code === 304) reply.code(fault.code).send()
      else
        sendBytes(
          reply,
          fault.code,
          'application/json',
          JSON.stringify({ detail: STATUS_CODES[fault.code] ?? '' }),
        )
      return
    }
    case 'html':
      sendBytes(
        reply,
        200,
        'text/html',
        '<!DOCTYPE html><html><body><h1>Welcome to nginx!</h1></body></html>',
      )
      return
    case 'hang':
      reply.hijack()
      return
    case 'huge':
      reply.type('application/json').send(Readable.from(hugeBody(fault.bytes ?? Number.POSITIVE_INFINITY)))
      return
    case 'reset':
      reply.hijack()
      reply.raw.socket?.resetAndDestroy()
      return
    case 'body':
      sendBytes(reply, fault.status, fault.contentType, fault.body)
      return
  }
}

/** JSON that a reader without a size limit would accept as a connected fiber, after reading all of it. */
function* hugeBody(bytes: number): Generator<Buffer> {
  yield Buffer.from('{"prr":2000.0,"sw_version":"11.17.10513","padding":"')
  const padding = Buffer.alloc(64 * 1024, 'x')
  for (let left = bytes; left > 0; left -= padding.length)
    yield left < padding.length ? padding.subarray(0, left) : padding
  yield Buffer.from('"}')
}

/** Parses a fault received over HTTP. Returns an error message if it is invalid. */
export function parseFault(value: unknown): Fault | string {
  if (!isObject(value)) return expected('fault', 'an object or null', value)
  const { kind, code, bytes, forMs, status, contentType, body, delayMs } = value
  switch (kind) {
    case 'html':
    case 'hang':
    case 'reset':
      return { kind }
    case 'status':
      return isStatus(code) ? { kind, code } : expected('fault.code', 'a status from 200 to 599', code)
    case 'huge':
      if (bytes === undefined) return { kind }
      return isAmount(bytes) ? { kind, bytes } : expected('fault.bytes', 'a number of 0 or more', bytes)
    case 'refuse':
      if (forMs === undefined) return { kind }
      return isTimerMs(forMs)
        ? { kind, forMs }
        : expected('fault.forMs', 'milliseconds from 0 to 2147483647', forMs)
    case 'slow':
      return isTimerMs(delayMs)
        ? { kind, delayMs }
        : expected('fault.delayMs', 'milliseconds from 0 to 2147483647', delayMs)
    case 'body':
      if (!isStatus(status)) return expected('fault.status', 'a status from 200 to 599', status)
      if (typeof contentType !== 'string') return expected('fault.contentType', 'text', contentType)
      return typeof body === 'string'
        ? { kind, status, contentType, body }
        : expected('fault.body', 'text', body)
    default:
      return expected(
        'fault.kind',
        '"status", "html", "hang", "huge", "refuse", "reset", "body" or "slow"',
        kind,
      )
  }
}

function expected(field: string, what: string, given: unknown): string {
  return `${field}: expected ${what}, given ${show(given)}`
}

/** Formats a value from a request for an error message: as JSON, truncated. */
export function show(value: unknown): string {
  return (JSON.stringify(value) ?? 'nothing').slice(0, 200)
}

function isStatus(value: unknown): value is number {
  return typeof value === 'number' && Number.isInteger(value) && value >= 200 && value <= 599
}

function isAmount(value: unknown): value is number {
  return typeof value === 'number' && value >= 0
}

/** Whether Node's timers can wait this long. Longer timers fire at once. */
function isTimerMs(value: unknown): value is number {
  return isAmount(value) && value <= 2 ** 31 - 1
}
