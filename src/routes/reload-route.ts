import type { FastifyInstance } from 'fastify'
import Type from 'typebox'
import { sendError } from '../server/error-response.js'
import type { AdminToken } from './admin-token.js'
import { described } from './schemas.js'

/** The outcome of a reload. `explanation` is for people. */
export type ReloadOutcome =
  | {
      readonly ok: true
      readonly applied: readonly string[]
      readonly needRestart: readonly string[]
      readonly renewedFiles: readonly string[]
    }
  | { readonly ok: false; readonly explanation: string }

/** Dependencies of the route. */
export type ReloadOptions = {
  readonly adminToken: AdminToken
  /** Reloads the configuration and the watched files, and applies the options that can change while running. */
  readonly reload: () => Promise<ReloadOutcome>
}

const ReloadBody = Type.Object({
  applied: described('Options that changed and are now in force.', Type.Array(Type.String())),
  needRestart: described('Options that changed and need a restart.', Type.Array(Type.String())),
  renewedFiles: described(
    'Files of certificates, secrets and the override whose changed contents are now in force.',
    Type.Array(Type.String()),
  ),
})

/** `POST /-/reload`: does what SIGHUP does. Needs the admin token. */
export function reload(app: FastifyInstance, { adminToken, reload: reloadNow }: ReloadOptions): void {
  app.post(
    '/-/reload',
    {
      schema: {
        summary: 'Reloads the configuration and its files, like SIGHUP.',
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
