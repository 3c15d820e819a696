import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { FastifyInstance } from 'fastify'

/** How often connections that have become idle are closed while the server drains. */
const SWEEP_MS = 100

/** How long a connection that has not sent a whole head is waited for. */
const HEAD_GRACE_MS = 500

/**
 * Lets the server close with grace: requests in flight finish, idle connections are closed, and what is left
 * after `drainTimeoutMs`, joined WebSocket connections too, is cut.
 */
export function shutdown(
  app: FastifyInstance,
  { drainTimeoutMs }: { readonly drainTimeoutMs: number },
): void {
  // By peer, because with TLS the connection that is accepted is another object than the one that asks.
  const sockets = new Map<string, Socket>()
  const serving = new Map<string, number>()
  const count = (peer: string, by: number) => {
    // What ends after its connection is counted no more.
    if (sockets.has(peer)) serving.set(peer, (serving.get(peer) ?? 0) + by)
  }
  const serve = ({ socket }: IncomingMessage, response: ServerResponse) => {
    const peer = peerOf(socket)
    count(peer, 1)
    response.once('close', () => count(peer, -1))
  }
  app.server.on('connection', (socket: Socket) => {
    const peer = peerOf(socket)
    if (sockets.has(peer)) return
    sockets.set(peer, socket)
    socket.once('close', () => {
      sockets.delete(peer)
      serving.delete(peer)
    })
  })
  app.server.on('request', serve)
  app.server.on('checkContinue', serve)
  app.server.on('upgrade', ({ socket }) => count(peerOf(socket), 1))
  let sweep: NodeJS.Timeout | undefined
  let deadline: NodeJS.Timeout | undefined
  app.addHook('preClose', done => {
    const startedAt = performance.now()
    sweep = setInterval(() => {
      // Node closes idle connections once; one that becomes idle later would hold the server for its timeout.
      app.server.closeIdleConnections()
      if (performance.now() - startedAt < HEAD_GRACE_MS) return
      for (const [peer, socket] of sockets) if ((serving.get(peer) ?? 0) <= 0) socket.destroy()
    }, SWEEP_MS).unref()
    deadline = setTimeout(() => {
      for (const socket of sockets.values()) socket.destroy()
    }, drainTimeoutMs).unref()
    done()
  })
  app.addHook('onClose', (_app, done) => {
    clearInterval(sweep)
    clearTimeout(deadline)
    done()
  })
}

function peerOf({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress} ${remotePort}`
}
