import { randomBytes } from 'node:crypto'
import { type Answer, ask, headerOf } from './ask.js'
import type { Peer, Server } from './children.js'
import { type BenchRequest, CHANNELS, CONFIGURE } from './requests.js'

/** Large enough to fill every buffer on the path, which reveals a peer that ignores backpressure or stops early. */
const ECHO_BYTES = 2_000_000

/**
 * Checks that a proxy forwards as it must, before it is measured: the status, type and bytes of the upstream's
 * responses, the whole body of a configure request, and 2 MB in both directions.
 *
 * @throws if it does not, with the name of the peer and the difference.
 */
export async function checkForwarding(peer: Peer, upstream: Server): Promise<void> {
  for (const request of [CHANNELS, CONFIGURE]) {
    const direct = await sent(upstream, request)
    if (direct.status !== 200)
      throw new Error(`the upstream responds to ${request.path} with ${direct.status}`)
    const forwarded = await sent(peer.server, request)
    if (summary(forwarded) !== summary(direct)) {
      throw wrong(peer, request, `expected ${summary(direct)}, got ${summary(forwarded)}`)
    }
    if (!forwarded.body.equals(direct.body))
      throw wrong(peer, request, 'the body differs from the body that the upstream sent')
  }
  // The upstream rejects every other body, so a 200 above means that the whole body reached it.
  const cut = { ...CONFIGURE, body: CONFIGURE.body.slice(1) }
  const { status } = await sent(peer.server, cut)
  if (status !== 400) throw wrong(peer, cut, `the upstream did not see the body: expected 400, got ${status}`)

  const bytes = randomBytes(ECHO_BYTES)
  const echoed = await ask(peer.server.url, 'POST', '/bench/echo', bytes)
  if (echoed.status !== 200 || !echoed.body.equals(bytes)) {
    throw new Error(
      `${peer.name}: 2 MB did not come back unchanged (${echoed.status}, ${echoed.body.length} bytes)`,
    )
  }
}

/**
 * Checks that a proxy refuses a configure request with 503 and JSON.
 *
 * @throws if it does not.
 */
export async function checkRefusal(peer: Peer): Promise<void> {
  const refusal = await sent(peer.server, CONFIGURE)
  const isJson = headerOf(refusal, 'content-type')?.startsWith('application/json') ?? false
  if (refusal.status !== 503 || !isJson)
    throw wrong(peer, CONFIGURE, `expected a refusal, got ${summary(refusal)}`)
}

/**
 * Checks that the peer's response costs as much to send as the proxy's refusal: the same status, the same headers with
 * values of the same length, and a body of the same length.
 *
 * @throws if it does not.
 */
export async function checkSameShape(peer: Peer, subject: Peer): Promise<void> {
  const expected = shapeOf(await sent(subject.server, CONFIGURE))
  const given = shapeOf(await sent(peer.server, CONFIGURE))
  if (given !== expected) throw wrong(peer, CONFIGURE, `expected\n${expected}\ngot\n${given}`)
}

function sent({ url }: Server, { method, path, body }: BenchRequest): Promise<Answer> {
  return ask(url, method, path, body)
}

function summary(answer: Answer): string {
  return `${answer.status} ${headerOf(answer, 'content-type')}, ${answer.body.length} bytes`
}

function shapeOf({ status, headers, body }: Answer): string {
  const shapes = headers.flatMap((name, index) =>
    index % 2 === 1 ? [] : [`${name.toLowerCase()}:${(headers[index + 1] ?? '').length}`],
  )
  return `${status} ${shapes.toSorted().join(' ')} body:${body.length}`
}

function wrong({ name }: Peer, { method, path }: BenchRequest, what: string): Error {
  return new Error(`${name} does not handle ${method} ${path} correctly: ${what}`)
}
