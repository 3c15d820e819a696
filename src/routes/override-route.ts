import { createHash, timingSafeEqual } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import Type from 'typebox'
import type { Breaker } from '../breaker/breaker.js'
import { MAX_REASON_LENGTH, MAX_SECONDS, overrideAsJson, parseOverride } from '../domain/override.js'
import { OVERRIDE_STATES } from '../domain/vocabulary.js'
import { readBody } from '../proxy/request-body.js'
import { sendError } from '../server/error-response.js'
import { Nullable, OverrideBody } from './schemas.js'

/** What the operator's routes need. */
export type AdminOptions = {
  readonly breaker: Breaker
  /** Read anew at each request; without a token nothing can be changed. */
  readonly token: () => string | undefined
  /** Told of each attempt with a wrong token. */
  readonly onWrongToken: (address: string) => void
}

/** What `parseOverride` takes. */
const OverrideRequestBody = Type.Object(
  {
    state: Type.Enum(OVERRIDE_STATES),
    reason: Type.String({ minLength: 1, maxLength: MAX_REASON_LENGTH }),
    forSeconds: Type.Integer({ minimum: 1, maximum: MAX_SECONDS }),
  },
  { additionalProperties: false },
)
const OverridesBody = Type.Object({
  override: Nullable(OverrideBody),
  history: Type.Array(OverrideBody),
  /** Whether a token is configured, without which nobody can change it. */
  changeable: Type.Boolean(),
})

const MAX_BODY_BYTES = 16_384
const BODY_TIMEOUT_MS = 5000

/** How long a wrong token is left without an answer, and how many may be at a time, of one address and in all. */
const WRONG_TOKEN_DELAY_MS = 1000
const MAX_DELAYED_PER_ADDRESS = 20
const MAX_DELAYED = 1000

/** The operator's word: `PUT` and `DELETE /-/override` with the token; `GET` shows it and its history to all. */
export function admin(app: FastifyInstance, options: AdminOptions): void {
  const { breaker } = options
  const isAllowed = gate(options)
  app.get(
    '/-/override',
    { schema: { summary: "The operator's word, and the earlier ones.", response: { 200: OverridesBody } } },
    (_request, reply) => {
      const { override } = breaker.snapshot()
      reply.header('cache-control', 'no-store').send({
        override: override === null ? null : overrideAsJson(override),
        history: breaker.pastOverrides.map(overrideAsJson),
        changeable: options.token() !== undefined,
      })
    },
  )
  app.put(
    '/-/override',
    {
      schema: {
        summary: 'Sets the word: {state, reason, forSeconds}.',
        takes: OverrideRequestBody,
        needsToken: true,
        response: { 200: OverrideBody },
      },
    },
    async (request, reply) => {
      if (!(await isAllowed(request, reply))) return reply
      const { kind, bytes } = await readBody(reply, MAX_BODY_BYTES, BODY_TIMEOUT_MS)
      if (kind !== 'whole') {
        request.raw.resume()
        if (kind === 'late')
          sendError(reply, 408, 'Request Timeout', `The body took more than ${BODY_TIMEOUT_MS / 1000} s.`)
        else sendError(reply, 413, 'Content Too Large', `An override has at most ${MAX_BODY_BYTES} bytes.`)
        return reply
      }
      const parsed = parseOverride(parseJson(bytes.toString('utf8')))
      if (!parsed.ok) {
        sendError(reply, 400, 'Bad Request', `The override has faults. ${parsed.faults.join('; ')}.`)
        return reply
      }
      const override = breaker.setOverride(parsed.request, request.ip)
      return reply.header('cache-control', 'no-store').send(overrideAsJson(override))
    },
  )
  app.delete(
    '/-/override',
    { schema: { summary: 'Takes it back.', needsToken: true, response: { 204: {} } } },
    async (request, reply) => {
      if (!(await isAllowed(request, reply))) return reply
      breaker.removeOverride(request.ip)
      return reply.code(204).send()
    },
  )
}

/** Answers what has not the token: 404 where none is configured, else 401, late for a wrong one. */
function gate({ token, onWrongToken }: AdminOptions) {
  const delayed = new Map<string, number>()
  const delayedOf = (address: string) => delayed.get(address) ?? 0
  return async (request: FastifyRequest, reply: FastifyReply): Promise<boolean> => {
    const expected = token()
    if (expected === undefined) {
      sendError(reply, 404, 'Not Found', 'Nothing can be changed over HTTP: no admin.token is configured.')
      return false
    }
    const { ip } = request
    // Not even looked at: else whoever guesses fast would learn by the answer that comes at once.
    if (delayedOf(ip) >= MAX_DELAYED_PER_ADDRESS || delayed.size >= MAX_DELAYED) {
      reply.header('retry-after', 1)
      sendError(reply, 429, 'Too Many Requests', 'Too many wrong tokens at a time.')
      return false
    }
    const given = /^Bearer +(.+)$/i.exec(request.headers.authorization ?? '')?.[1]
    if (given !== undefined && isSame(given, expected)) return true
    if (given !== undefined) {
      onWrongToken(ip)
      delayed.set(ip, delayedOf(ip) + 1)
      // A shutdown does not wait for this timer; the answer is then cut with the rest.
      await sleep(WRONG_TOKEN_DELAY_MS, undefined, { ref: false })
      if (delayedOf(ip) > 1) delayed.set(ip, delayedOf(ip) - 1)
      else delayed.delete(ip)
    }
    reply.header('www-authenticate', 'Bearer realm="focus-breaker"')
    sendError(reply, 401, 'Unauthorized', 'This needs Authorization: Bearer with the admin.token.')
    return false
  }
}

/** In constant time, whatever the lengths. */
function isSame(given: string, expected: string): boolean {
  const digest = (text: string) => createHash('sha256').update(text).digest()
  return timingSafeEqual(digest(given), digest(expected))
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
