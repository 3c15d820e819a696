import type { FastifyInstance } from 'fastify'
import Type from 'typebox'
import type { Breaker } from '../breaker/breaker.js'
import {
  isDeclared,
  MAX_REASON_LENGTH,
  MAX_SECONDS,
  overrideAsJson,
  parseOverride,
  pastOverrideAsJson,
} from '../domain/override.js'
import { OVERRIDE_STATES } from '../domain/vocabulary.js'
import { sendError } from '../server/error-response.js'
import { readBody } from '../server/read-body.js'
import type { AdminToken } from './admin-token.js'
import { described, Nullable, OverrideBody, PastOverrideBody } from './schemas.js'

/** Dependencies of the routes. */
export type OverrideOptions = {
  readonly breaker: Breaker
  readonly adminToken: AdminToken
  /** Whether an override that is set over HTTP survives a restart. */
  readonly isKept: () => boolean
}

/** The body that `parseOverride` accepts. */
const OverrideRequestBody = Type.Object(
  {
    state: Type.Enum(OVERRIDE_STATES),
    reason: Type.String({ minLength: 1, maxLength: MAX_REASON_LENGTH }),
    forSeconds: Type.Integer({ minimum: 1, maximum: MAX_SECONDS }),
    silent: Type.Optional(Type.Boolean()),
  },
  { additionalProperties: false },
)

const OverridesBody = Type.Object({
  override: Nullable(OverrideBody),
  history: described('Earlier overrides, newest first, at most 200.', Type.Array(PastOverrideBody)),
  changeable: described(
    'Whether a token is configured; without one the override cannot be changed over HTTP.',
    Type.Boolean(),
  ),
  kept: described(
    'Whether an override set over HTTP survives a restart: true if `history.file` is set and writable.',
    Type.Boolean(),
  ),
})

/** Size limit and timeout of the body of an override request. */
const MAX_BODY_BYTES = 16_384
const BODY_TIMEOUT_MS = 5000

/**
 * `PUT` and `DELETE /-/override` set and remove the manual override; both need the admin token. `GET /-/override` shows
 * the current and earlier overrides and needs no token.
 */
export function override(app: FastifyInstance, { breaker, adminToken, isKept }: OverrideOptions): void {
  app.get(
    '/-/override',
    { schema: { summary: 'The manual override, and earlier ones.', response: { 200: OverridesBody } } },
    (_request, reply) => {
      const current = breaker.snapshot().override
      reply.header('cache-control', 'no-store').send({
        override: current === null ? null : overrideAsJson(current),
        history: breaker.pastOverrides.map(pastOverrideAsJson),
        changeable: adminToken.isConfigured,
        kept: isKept(),
      })
    },
  )
  app.put(
    '/-/override',
    {
      schema: {
        summary:
          'Sets the override: {state, reason, forSeconds, silent}. With silent (only for state open), the override is planned maintenance and no alert is sent.',
        takes: OverrideRequestBody,
        needsToken: true,
        response: { 200: Type.Object({ ...OverrideBody.properties, kept: Type.Boolean() }) },
      },
    },
    async (request, reply) => {
      if (!(await adminToken.allows(request, reply))) return reply
      const { kind, bytes } = await readBody(reply.raw, {
        maxBytes: MAX_BODY_BYTES,
        timeoutMs: BODY_TIMEOUT_MS,
      })
      if (kind !== 'whole') {
        request.raw.resume()
        if (kind === 'late')
          sendError(
            reply,
            408,
            'Request Timeout',
            `The request body took more than ${BODY_TIMEOUT_MS / 1000} s.`,
          )
        else sendError(reply, 413, 'Content Too Large', `The request body exceeds ${MAX_BODY_BYTES} bytes.`)
        return reply
      }
      const parsed = parseOverride(parseJson(bytes.toString('utf8')))
      if (!parsed.ok) {
        sendError(reply, 400, 'Bad Request', `Invalid override. ${parsed.faults.join('; ')}.`)
        return reply
      }
      const set = breaker.setOverride(parsed.request, adminToken.addressOf(request))
      return reply.header('cache-control', 'no-store').send({ ...overrideAsJson(set), kept: isKept() })
    },
  )
  app.delete(
    '/-/override',
    { schema: { summary: 'Removes the override.', needsToken: true, response: { 204: {} } } },
    async (request, reply) => {
      if (!(await adminToken.allows(request, reply))) return reply
      const current = breaker.snapshot().override
      if (current !== null && isDeclared(current)) {
        const message =
          'The override is declared in override.file: remove it there, or set another override over HTTP.'
        sendError(reply, 409, 'Conflict', message)
        return reply
      }
      breaker.removeOverride(adminToken.addressOf(request))
      return reply.code(204).send()
    },
  )
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
