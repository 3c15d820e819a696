import { readFileSync } from 'node:fs'
import type { Socket } from 'node:net'
import { type ConnectionOptions, createSecureContext } from 'node:tls'
import { buildConnector, Client, Dispatcher, Pool } from 'undici'
import { RESET } from './failure.js'
import type { UpstreamRequest } from './request-connection.js'

/** Settings of the connections to the upstream; times in milliseconds. `bodyTimeoutMs: 0` means no limit. */
export type UpstreamOptions = {
  readonly url: string
  readonly connectTimeoutMs: number
  readonly headersTimeoutMs: number
  readonly bodyTimeoutMs: number
  /** Limit on the size of a response head. */
  readonly maxHeaderBytes: number
  readonly tls: {
    readonly insecureSkipVerify: boolean
    readonly caFile?: string
    readonly serverName?: string
    /** A client certificate to present to the upstream, with its key. */
    readonly certFile?: string
    readonly keyFile?: string
  }
}

/** TLS options for connections to the upstream, as undici and `node:tls` accept them. */
export type UpstreamTls = Pick<ConnectionOptions, 'rejectUnauthorized' | 'ca' | 'cert' | 'key' | 'servername'>

/** Whether and for how long connections are reused; times in milliseconds. */
export type Reuse = {
  /** How long an idle connection is kept; 0 for one request per connection. */
  readonly keepAliveMs: number
  /** How old a connection may be when a request is sent on it; 0 for no limit. */
  readonly maxConnectionAgeMs: number
}

const DEFAULT_REUSE: Reuse = { keepAliveMs: 3000, maxConnectionAgeMs: 0 }

/** Paths of the TLS files for the upstream; empty for plain HTTP. */
export function upstreamTlsFiles({ url, tls }: UpstreamOptions): readonly string[] {
  if (new URL(url).protocol !== 'https:') return []
  return [tls.caFile, tls.certFile, tls.keyFile].filter(file => file !== undefined)
}

/**
 * Reads the TLS options for the upstream; `{}` for plain HTTP.
 *
 * @param read returns the text of a file.
 * @throws if a file cannot be read, or if certificate and key do not match.
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
 * Creates undici's connection pool for the upstream: verified TLS, the configured timeouts, no retries.
 *
 * @param connections the maximum number of connections; further requests queue.
 * @param tls called for each new connection; returns the same object until the files are renewed.
 */
export function upstreamPool(
  upstream: UpstreamOptions,
  connections: number,
  tls: () => UpstreamTls = fixed(upstreamTls(upstream)),
  { keepAliveMs, maxConnectionAgeMs }: Reuse = DEFAULT_REUSE,
): Pool {
  const options = {
    ...limitsOf(upstream),
    // undici then closes each connection after its response.
    ...(keepAliveMs === 0 && { pipelining: 0 }),
    ...(keepAliveMs > 0 && { keepAliveTimeout: keepAliveMs, keepAliveMaxTimeout: keepAliveMs }),
  }
  const connect = connectorOf(upstream.connectTimeoutMs, tls)
  return new Pool(new URL(upstream.url).origin, {
    connections,
    clientTtl: maxConnectionAgeMs,
    factory: origin => new WatchedClient(origin, options, connect),
  })
}

/**
 * Sends each request on a new connection, which is closed after the response. Connections and failures are those of
 * `upstreamPool`. The number of connections is not limited: it equals the number of requests.
 */
export class FreshConnections extends Dispatcher {
  readonly #make: () => Client
  readonly #clients = new Set<Client>()

  constructor(upstream: UpstreamOptions, tls: () => UpstreamTls = fixed(upstreamTls(upstream))) {
    super()
    const connect = connectorOf(upstream.connectTimeoutMs, tls)
    this.#make = () => new Client(new URL(upstream.url).origin, { ...limitsOf(upstream), connect })
  }

  override dispatch(options: Dispatcher.DispatchOptions, handler: Dispatcher.DispatchHandler): boolean {
    const client = this.#make()
    this.#clients.add(client)
    const forget = () => this.#clients.delete(client)
    const isReady = client.dispatch(options, handler)
    // Resolves when the request has ended, even if the client was destroyed before.
    client.close().then(forget, forget)
    return isReady
  }

  /** Aborts all requests in flight. */
  async cut(): Promise<void> {
    await Promise.all([...this.#clients].map(client => client.destroy()))
  }
}

function limitsOf({ headersTimeoutMs, bodyTimeoutMs, maxHeaderBytes }: UpstreamOptions) {
  // A second request on a connection would wait for the first one and fail with it.
  return {
    pipelining: 1,
    headersTimeout: headersTimeoutMs,
    bodyTimeout: bodyTimeoutMs,
    maxHeaderSize: maxHeaderBytes,
  }
}

function fixed(tls: UpstreamTls): () => UpstreamTls {
  return () => tls
}

/** Connects with the current TLS options. A renewal also discards TLS sessions that could be resumed. */
function connectorOf(timeout: number, tls: () => UpstreamTls): buildConnector.connector {
  let current = tls()
  let connector = buildConnector({ timeout, ...current })
  return (options, callback) => {
    if (tls() !== current) {
      current = tls()
      connector = buildConnector({ timeout, ...current })
    }
    connector(options, (...connected) => {
      connected[1]?.on('error', markReset)
      callback(...connected)
    })
  }
}

/**
 * Gives a reset another error code. undici takes `ECONNRESET` for the end of a response that ends with its connection;
 * under another code it is reported as an error. This listener runs before undici's.
 */
function markReset(error: Error & { code?: string }): void {
  if (error.code === 'ECONNRESET') error.code = RESET
}

/** A client with one connection at a time, which it exposes to the requests that ask for it. */
class WatchedClient extends Client {
  readonly #current: () => Socket | undefined

  constructor(origin: URL, options: Client.Options, connect: buildConnector.connector) {
    let current: Socket | undefined
    super(origin, {
      ...options,
      connect: (target, callback) =>
        connect(target, (...result: buildConnector.CallbackArgs) => {
          current = result[1] ?? undefined
          callback(...result)
        }),
    })
    this.#current = () => current
  }

  override dispatch(request: UpstreamRequest, handler: Dispatcher.DispatchHandler): boolean {
    request.connection?.takenBy(this.#current)
    return super.dispatch(request, handler)
  }
}
