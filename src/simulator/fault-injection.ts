import { STATUS_CODES } from 'node:http'
import { Readable } from 'node:stream'
import type { FastifyReply } from 'fastify'
import { isObject } from './configure-body.js'
import { sendBytes } from './received.js'

/** A way of going wrong that a route can be switched to while the simulator runs. */
export type Fault =
  /** Answers this status (200 to 599) with a body in FastAPI's shape. */
  | { readonly kind: 'status'; readonly code: number }
  /** Answers 200 with a page, as an ingress does that has lost its way. */
  | { readonly kind: 'html' }
  /** Reads the request and never answers. */
  | { readonly kind: 'hang' }
  /** Answers 200 with at least this many bytes of valid JSON that says ready; endless without `bytes`. */
  | { readonly kind: 'huge'; readonly bytes?: number }
  /** Nothing listens, for the whole server whatever the route; ends by itself after `forMs`. */
  | { readonly kind: 'refuse'; readonly forMs?: number }
  /** Resets the connection (RST) in place of an answer. */
  | { readonly kind: 'reset' }
  /** Answers exactly this. */
  | {
      readonly kind: 'body'
      readonly status: number
      readonly contentType: string
      readonly body: string | Uint8Array
    }
  /** Answers as usual, later. */
  | { readonly kind: 'slow'; readonly delayMs: number }

/** The faults that an answer shows; the other two concern the socket that listens and the clock. */
export type AnswerFault = Exclude<Fault, { kind: 'refuse' } | { kind: 'slow' }>

/** Answers, or fails to answer, as the fault says. */
export function answerWithFault(fault: AnswerFault, reply: FastifyReply): void {
  switch (fault.kind) {
    case 'status': {
      // These two have no body, and Node would refuse to write one.
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

/** JSON that a reader without a limit would take for a connected fiber, once it has swallowed all of it. */
function* hugeBody(bytes: number): Generator<Buffer> {
  yield Buffer.from('{"prr":2000.0,"sw_version":"11.17.10513","padding":"')
  const padding = Buffer.alloc(64 * 1024, 'x')
  for (let left = bytes; left > 0; left -= padding.length)
    yield left < padding.length ? padding.subarray(0, left) : padding
  yield Buffer.from('"}')
}

/** A fault as it came over HTTP, or a sentence that says what was expected and what was given. */
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

/** A value from a request for a message: as JSON, and not all of a long one. */
export function show(value: unknown): string {
  return (JSON.stringify(value) ?? 'nothing').slice(0, 200)
}

function isStatus(value: unknown): value is number {
  return typeof value === 'number' && Number.isInteger(value) && value >= 200 && value <= 599
}

function isAmount(value: unknown): value is number {
  return typeof value === 'number' && value >= 0
}

/** Beyond this Node's timers fire at once. */
function isTimerMs(value: unknown): value is number {
  return isAmount(value) && value <= 2 ** 31 - 1
}
