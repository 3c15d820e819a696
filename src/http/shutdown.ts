import type { Socket } from 'node:net'
import type { FastifyInstance } from 'fastify'

/** How often connections that have become idle are closed while the server drains. */
const SWEEP_MS = 100

/**
 * Lets the server close with grace: requests in flight finish, idle connections are closed, and what is left
 * after `drainTimeoutMs`, joined WebSocket connections too, is cut.
 */
export function shutdown(
  app: FastifyInstance,
  { drainTimeoutMs }: { readonly drainTimeoutMs: number },
): void {
  const sockets = new Set<Socket>()
  app.server.on('connection', (socket: Socket) => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
  })
  let sweep: NodeJS.Timeout | undefined
  let deadline: NodeJS.Timeout | undefined
  app.addHook('preClose', done => {
    // Node closes idle connections once; one that becomes idle later would hold the server for its timeout.
    sweep = setInterval(() => app.server.closeIdleConnections(), SWEEP_MS).unref()
    deadline = setTimeout(() => {
      for (const socket of sockets) socket.destroy()
    }, drainTimeoutMs).unref()
    done()
  })
  app.addHook('onClose', (_app, done) => {
    clearInterval(sweep)
    clearTimeout(deadline)
    done()
  })
}
