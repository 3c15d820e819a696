import assert from 'node:assert/strict'
import { at } from './harness.js'

const RFC_3339 = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/

/** A response, from any kind of client. */
export interface Answer {
  readonly status: number
  /** By lower-case name. */
  readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>
  readonly body: string
}

/** Fails unless every header and member of the response is the proxy's own for a missing fiber. */
export function assertRefusedForFiber(answer: Answer): void {
  assert.equal(answer.status, 503)
  assert.match(String(answer.headers['retry-after']), /^[1-5]$/)
  assert.equal(answer.headers['cache-control'], 'no-store')
  assert.equal(
    answer.headers['proxy-status'],
    'focus-breaker; error=destination_unavailable; details="waiting for fiber"',
  )
  assert.match(String(answer.headers.link), /^<(\/focus-server)?\/-\/status>; rel="status"$/)
  assert.match(String(answer.headers['content-type']), /^application\/json(; ?charset=utf-8)?$/)
  assertFiberBody(JSON.parse(answer.body))
}

/** Fails unless this is the JSON body about a missing fiber. */
export function assertFiberBody(body: unknown): void {
  assert.ok(typeof body === 'object' && body !== null)
  const { circuit, observedAt, lastReadyAt, requestId, retryAfterSeconds, ...words } = { ...shapeOf(body) }
  assert.deepEqual(words, {
    error: 'Cannot configure job: waiting for fiber',
    message:
      'System is waiting for fiber connection. Please ensure fiber is connected and metadata is available.',
    status: 'waiting_for_fiber',
    reason: 'Missing required fiber metadata fields: prr',
    details: { prr: 0, sw_version: 'waiting for fiber', fiber_description: 'waiting for fiber' },
    forwarded: false,
  })
  assert.equal(at(circuit, 'state'), 'open')
  assert.match(String(at(circuit, 'since')), RFC_3339)
  assert.match(String(observedAt), RFC_3339)
  assert.match(String(lastReadyAt), RFC_3339)
  assert.ok(typeof requestId === 'string' && requestId !== '')
  assert.ok(Number.isInteger(retryAfterSeconds))
}

function shapeOf(body: object): Record<string, unknown> {
  return Object.fromEntries(Object.entries(body))
}
