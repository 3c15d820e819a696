import { readFileSync } from 'node:fs'
import type { Socket } from 'node:net'
import { type ConnectionOptions, createSecureContext } from 'node:tls'
import { buildConnector, Client, Dispatcher, Pool } from 'undici'
import { RESET } from './failure.js'
import type { UpstreamRequest } from './request-connection.js'

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

/** Whether and for how long connections are used again; times in milliseconds. */
export type Reuse = {
  /** How long an idle one is kept; 0 for one request each. */
  readonly keepAliveMs: number
  /** How old one may be when a request is sent on it; 0 for any age. */
  readonly maxConnectionAgeMs: number
}

const DEFAULT_REUSE: Reuse = { keepAliveMs: 3000, maxConnectionAgeMs: 0 }

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
 * undici's connections to the upstream: verified TLS, its timeouts, and no retries.
 *
 * @param connections the most connections at a time; further requests queue.
 * @param tls is asked for each new connection; it gives the same object for as long as nothing was renewed.
 */
export function upstreamPool(
  upstream: UpstreamOptions,
  connections: number,
  tls: () => UpstreamTls = fixed(upstreamTls(upstream)),
  { keepAliveMs, maxConnectionAgeMs }: Reuse = DEFAULT_REUSE,
): Pool {
  const options = {
    ...limitsOf(upstream),
    // undici closes each connection behind its response then.
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
 * Sends each request on a new connection, which is closed behind the response: the connections are as undici's of
 * `upstreamPool`, and so are failures. No more than there are requests.
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
    // It closes when the request has ended; one that was destroyed before has closed, too.
    client.close().then(forget, forget)
    return isReady
  }

  /** Cuts all that is under way. */
  async cut(): Promise<void> {
    await Promise.all([...this.#clients].map(client => client.destroy()))
  }
}

function limitsOf({ headersTimeoutMs, bodyTimeoutMs, maxHeaderBytes }: UpstreamOptions) {
  // A second request on a connection would wait for the first, and be lost with it.
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

/** One connection at a time, which is shown to the requests that ask for it. */
class WatchedClient extends Client {
  readonly #present: () => Socket | undefined

  constructor(origin: URL, options: Client.Options, connect: buildConnector.connector) {
    let present: Socket | undefined
    super(origin, {
      ...options,
      connect: (target, callback) =>
        connect(target, (...result: buildConnector.CallbackArgs) => {
          present = result[1] ?? undefined
          callback(...result)
        }),
    })
    this.#present = () => present
  }

  override dispatch(request: UpstreamRequest, handler: Dispatcher.DispatchHandler): boolean {
    request.connection?.takenBy(this.#present)
    return super.dispatch(request, handler)
  }
}
