import type { Server } from 'node:net'

/**
 * Options of every `node:http` server of the bench: those of focus-breaker, so that all send the same
 * `Keep-Alive` header and none closes a connection during a run.
 */
export const SERVER_OPTIONS = { keepAliveTimeout: 72_000, requestTimeout: 0 } as const

/** Listens on a free port of loopback, prints the URL for `Children`, and ends with the process that started it. */
export function serve(server: Server): void {
  server.listen(0, '127.0.0.1', () => {
    const address = server.address()
    if (typeof address === 'object' && address !== null) announce(`http://127.0.0.1:${address.port}`)
  })
}

/** Prints the URL for `Children`, and ends with the process that started it. */
export function announce(url: string): void {
  process.stdout.write(`${JSON.stringify({ msg: 'listening', url })}\n`)
  process.stdin.resume().once('end', () => process.exit())
  // Node writes a CPU profile when it exits, but not when a signal ends it.
  process.once('SIGTERM', () => process.exit())
}
