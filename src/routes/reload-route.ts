import type { FastifyInstance } from 'fastify'
import Type from 'typebox'
import { sendError } from '../server/error-response.js'
import type { AdminToken } from './admin-token.js'

/** What came of reading the configuration again. Faults are for people. */
export type ReloadOutcome =
  | {
      readonly ok: true
      readonly applied: readonly string[]
      readonly needRestart: readonly string[]
      readonly renewedFiles: readonly string[]
    }
  | { readonly ok: false; readonly explanation: string }

/** What the route needs. */
export type ReloadOptions = {
  readonly adminToken: AdminToken
  /** Reads the configuration and the followed files again, and applies what can change while running. */
  readonly reload: () => Promise<ReloadOutcome>
}

const ReloadBody = Type.Object({
  /** The options that changed and are in force now. */
  applied: Type.Array(Type.String()),
  /** The options that changed and need a restart. */
  needRestart: Type.Array(Type.String()),
  /** The files of certificates, secrets and the override whose changed contents came into force. */
  renewedFiles: Type.Array(Type.String()),
})

/** `POST /-/reload`, with the admin token: does what SIGHUP does. */
export function reload(app: FastifyInstance, { adminToken, reload: reloadNow }: ReloadOptions): void {
  app.post(
    '/-/reload',
    {
      schema: {
        summary: 'Reads the configuration and its files again, as SIGHUP does.',
        needsToken: true,
        response: { 200: ReloadBody },
      },
    },
    async (request, reply) => {
      request.raw.resume()
      if (!(await adminToken.allows(request, reply))) return reply
      const outcome = await reloadNow()
      if (!outcome.ok) {
        sendError(reply, 422, 'Unprocessable Content', `Nothing was reloaded. ${outcome.explanation}`)
        return reply
      }
      const { applied, needRestart, renewedFiles } = outcome
      return reply.header('cache-control', 'no-store').send({ applied, needRestart, renewedFiles })
    },
  )
}
