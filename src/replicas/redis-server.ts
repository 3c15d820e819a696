import type { ConnectionOptions } from 'node:tls'
import { parseRedisUrl } from '../domain/redis-url.js'

/** The address of Redis or Valkey and the credentials, in the form that the client library takes. */
export type RedisServer = {
  readonly host: string
  readonly port: number
  readonly db: number
  readonly username?: string
  readonly password?: string
  readonly tls?: ConnectionOptions
}

/** The part of the client library that is used. */
export type ClientLibrary = Pick<typeof import('ioredis'), 'Redis' | 'AbstractConnector'>

/** The version of the client that focus-breaker is tested with, for `npm install`. */
export const CLIENT_PACKAGE = 'ioredis@6.0.0'

/**
 * The server that `replicas.url` names.
 *
 * @param ca the certificate authorities to trust instead of the default ones, as PEM; only for `rediss://`.
 * @throws if the URL is invalid; the message does not quote the URL.
 */
export function redisServer(url: string, ca?: string): RedisServer {
  const parsed = parseRedisUrl(url)
  if (!parsed.ok) throw new Error(`invalid replicas.url: it has ${parsed.problem}`)
  const { isEncrypted, ...server } = parsed.address
  return isEncrypted ? { ...server, tls: ca === undefined ? {} : { ca } } : server
}

/** Host and port of the server, as people write them. */
export function addressOf({ host, port }: Pick<RedisServer, 'host' | 'port'>): string {
  return `${host.includes(':') ? `[${host}]` : host}:${port}`
}

/**
 * The client library; undefined if it is not installed. Call this only if `replicas.url` is set: everything else runs
 * without the library and does not load it.
 */
export async function loadClient(): Promise<ClientLibrary | undefined> {
  try {
    // In the bundle of the image, a CommonJS module has only the default export.
    return (await import('ioredis')).default
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ERR_MODULE_NOT_FOUND') return undefined
    throw error
  }
}
