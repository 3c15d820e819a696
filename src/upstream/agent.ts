import { readFileSync } from 'node:fs'
import { type ConnectionOptions, createSecureContext } from 'node:tls'
import { buildConnector, Pool } from 'undici'
import { RESET } from './failure.js'

/** What the connections to the upstream go by; times in milliseconds, `bodyTimeoutMs` 0 for ever. */
export type UpstreamOptions = {
  readonly url: string
  readonly connectTimeoutMs: number
  readonly headersTimeoutMs: number
  readonly bodyTimeoutMs: number
  /** The head of a response. */
  readonly maxHeaderBytes: number
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

/** The files that TLS towards the upstream is made of; none for plain HTTP. */
export function upstreamTlsFiles({ url, tls }: UpstreamOptions): readonly string[] {
  if (new URL(url).protocol !== 'https:') return []
  return [tls.caFile, tls.certFile, tls.keyFile].filter(file => file !== undefined)
}

/**
 * TLS towards the upstream; `{}` for plain HTTP.
 *
 * @param read gives the text of a file.
 * @throws when a file cannot be read, or when certificate and key do not belong together.
 */
export function upstreamTls(
  upstream: UpstreamOptions,
  read = (file: string) => readFileSync(file, 'utf8'),
): UpstreamTls {
  if (new URL(upstream.url).protocol !== 'https:') return {}
  const { insecureSkipVerify, caFile, serverName, certFile, keyFile } = upstream.tls
  const files = {
    ...(caFile !== undefined && { ca: read(caFile) }),
    ...(certFile !== undefined && { cert: read(certFile) }),
    ...(keyFile !== undefined && { key: read(keyFile) }),
  }
  createSecureContext(files)
  return {
    rejectUnauthorized: !insecureSkipVerify,
    ...files,
    ...(serverName !== undefined && { servername: serverName }),
  }
}

/**
 * undici's connections to the upstream: verified TLS, its timeouts, idle connections closed before uvicorn
 * closes them, and no retries.
 *
 * @param connections the most connections at a time; further requests queue.
 * @param tls is asked for each new connection; it gives the same object for as long as nothing was renewed.
 */
export function upstreamPool(
  upstream: UpstreamOptions,
  connections: number,
  tls: () => UpstreamTls = fixed(upstreamTls(upstream)),
): Pool {
  return new Pool(new URL(upstream.url).origin, {
    connections,
    // A second request on a connection would wait for the first, and be lost with it.
    pipelining: 1,
    keepAliveTimeout: KEEP_ALIVE_MS,
    keepAliveMaxTimeout: KEEP_ALIVE_MS,
    headersTimeout: upstream.headersTimeoutMs,
    bodyTimeout: upstream.bodyTimeoutMs,
    maxHeaderSize: upstream.maxHeaderBytes,
    connect: connectorOf(upstream.connectTimeoutMs, tls),
  })
}

function fixed(tls: UpstreamTls): () => UpstreamTls {
  return () => tls
}

/** Makes connections with the TLS of the moment. A renewal also ends the TLS sessions that could be resumed. */
function connectorOf(timeout: number, tls: () => UpstreamTls): buildConnector.connector {
  let current = tls()
  let connector = buildConnector({ timeout, ...current })
  return (options, callback) => {
    if (tls() !== current) {
      current = tls()
      connector = buildConnector({ timeout, ...current })
    }
    connector(options, (...connected) => {
      connected[1]?.on('error', tellReset)
      callback(...connected)
    })
  }
}

/**
 * undici takes a reset for the end of a response that ends with its connection. Under another code it is the error that it
 * is. This listener comes before undici's.
 */
function tellReset(error: Error & { code?: string }): void {
  if (error.code === 'ECONNRESET') error.code = RESET
}
