import type { ConnectionOptions } from 'node:tls'
import { parseRedisUrl } from '../domain/redis-url.js'

/** Where Redis or Valkey is, and how to get in, as the client takes it. */
export type RedisServer = {
  readonly host: string
  readonly port: number
  readonly db: number
  readonly username?: string
  readonly password?: string
  readonly tls?: ConnectionOptions
}

/** The client library, as far as it is used. */
export type ClientLibrary = Pick<typeof import('ioredis'), 'Redis' | 'AbstractConnector'>

/** The version of the client that focus-breaker is tested with, for `npm install`. */
export const CLIENT_PACKAGE = 'ioredis@6.0.0'

/**
 * The server that `replicas.url` names.
 *
 * @param ca the authorities to trust instead of the usual ones, as PEM; for `rediss://` only.
 * @throws when the URL is not one that `config` lets pass; nothing of it is in the message.
 */
export function redisServer(url: string, ca?: string): RedisServer {
  const parsed = parseRedisUrl(url)
  if (!parsed.ok) throw new Error(`replicas.url cannot be used: it has ${parsed.problem}`)
  const { isEncrypted, ...server } = parsed.address
  return isEncrypted ? { ...server, tls: ca === undefined ? {} : { ca } } : server
}

/**
 * The client library; undefined where it is not installed. Call it only when `replicas.url` is set: everything else runs
 * without the library, and does not load it.
 */
export async function loadClient(): Promise<ClientLibrary | undefined> {
  try {
    // The bundle of the image knows no other export of a CommonJS module than the default one.
    return (await import('ioredis')).default
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ERR_MODULE_NOT_FOUND') return undefined
    throw error
  }
}
