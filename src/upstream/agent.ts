import { readFileSync } from 'node:fs'
import type { ConnectionOptions } from 'node:tls'
import { Pool } from 'undici'

/** What the connections to the upstream go by; times in milliseconds, `bodyTimeoutMs` 0 for ever. */
export type UpstreamOptions = {
  readonly url: string
  readonly connectTimeoutMs: number
  readonly headersTimeoutMs: number
  readonly bodyTimeoutMs: number
  readonly tls: {
    readonly insecureSkipVerify: boolean
    readonly caFile?: string
    readonly serverName?: string
    /** A certificate to show to the upstream, with its key. */
    readonly certFile?: string
    readonly keyFile?: string
  }
}

/** TLS towards the upstream, as undici and `node:tls` take it. */
export type UpstreamTls = Pick<ConnectionOptions, 'rejectUnauthorized' | 'ca' | 'cert' | 'key' | 'servername'>

/** How long an idle connection is kept: less than the 5 s after which uvicorn closes its own. */
const KEEP_ALIVE_MS = 3000

/** TLS towards the upstream; `{}` for plain HTTP. Throws when the file of authorities cannot be read. */
export function upstreamTls(upstream: UpstreamOptions): UpstreamTls {
  if (new URL(upstream.url).protocol !== 'https:') return {}
  const { insecureSkipVerify, caFile, serverName, certFile, keyFile } = upstream.tls
  return {
    rejectUnauthorized: !insecureSkipVerify,
    ...(caFile !== undefined && { ca: readFileSync(caFile, 'utf8') }),
    ...(certFile !== undefined && { cert: readFileSync(certFile, 'utf8') }),
    ...(keyFile !== undefined && { key: readFileSync(keyFile, 'utf8') }),
    ...(serverName !== undefined && { servername: serverName }),
  }
}

/**
 * undici's connections to the upstream: verified TLS, its timeouts, idle connections closed before uvicorn
 * closes them, and no retries.
 *
 * @param connections the most connections at a time; further requests queue.
 */
export function upstreamPool(upstream: UpstreamOptions, connections: number): Pool {
  return new Pool(new URL(upstream.url).origin, {
    connections,
    // A second request on a connection would wait for the first, and be lost with it.
    pipelining: 1,
    keepAliveTimeout: KEEP_ALIVE_MS,
    keepAliveMaxTimeout: KEEP_ALIVE_MS,
    headersTimeout: upstream.headersTimeoutMs,
    bodyTimeout: upstream.bodyTimeoutMs,
    connect: { timeout: upstream.connectTimeoutMs, ...upstreamTls(upstream) },
  })
}
