import type { FastifyInstance } from 'fastify'
import type { Connections } from './connection.js'

/** How often idle connections are closed while the server drains. */
const SWEEP_MS = 100

/** How long to wait for a connection that has not sent a complete request head. */
const HEAD_GRACE_MS = 500

/** Dependencies of the drain. */
export type DrainOptions = { readonly connections: Connections; readonly drainTimeoutMs: number }

/**
 * Shuts the server down gracefully: requests in flight finish and close their connections, and idle connections are
 * closed. After `drainTimeoutMs` all remaining connections are closed, including joined WebSocket connections.
 */
export function drain(app: FastifyInstance, { connections, drainTimeoutMs }: DrainOptions): void {
  let sweep: NodeJS.Timeout | undefined
  let deadline: NodeJS.Timeout | undefined
  app.addHook('preClose', done => {
    connections.retire()
    const startedAt = performance.now()
    sweep = setInterval(() => {
      // Node closes idle connections only once; one that becomes idle later would block the shutdown until its timeout.
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
