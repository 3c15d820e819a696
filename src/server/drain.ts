import type { FastifyInstance } from 'fastify'
import type { Connections } from './connection.js'

/** How often connections that have become idle are closed while the server drains. */
const SWEEP_MS = 100

/** How long a connection that has not sent a whole head is waited for. */
const HEAD_GRACE_MS = 500

/** What draining needs. */
export type DrainOptions = { readonly connections: Connections; readonly drainTimeoutMs: number }

/**
 * Lets the server close with grace: requests in flight finish and close their connections, idle connections are closed, and what is left
 * after `drainTimeoutMs`, joined WebSocket connections too, is cut.
 */
export function drain(app: FastifyInstance, { connections, drainTimeoutMs }: DrainOptions): void {
  let sweep: NodeJS.Timeout | undefined
  let deadline: NodeJS.Timeout | undefined
  app.addHook('preClose', done => {
    connections.retire()
    const startedAt = performance.now()
    sweep = setInterval(() => {
      // Node closes idle connections once; one that becomes idle later would hold the server for its timeout.
      app.server.closeIdleConnections()
      if (performance.now() - startedAt >= HEAD_GRACE_MS) connections.closeIdle()
    }, SWEEP_MS).unref()
    deadline = setTimeout(() => connections.closeAll(), drainTimeoutMs).unref()
    done()
  })
  app.addHook('onClose', (_app, done) => {
    clearInterval(sweep)
    clearTimeout(deadline)
    connections.stop()
    done()
  })
}
