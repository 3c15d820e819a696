/** Where Redis or Valkey is, and how to get in: what the URL says. */
export type RedisAddress = {
  readonly host: string
  readonly port: number
  readonly db: number
  readonly username?: string
  readonly password?: string
  readonly isEncrypted: boolean
}

/** An address, or what is wrong with the URL. Nothing of the URL is in it: it holds a password. */
export type ParsedRedisUrl =
  | { readonly ok: true; readonly address: RedisAddress }
  | { readonly ok: false; readonly problem: string }

/** What the namespace and the name of a replica may be: text that means itself in a key and in a pattern of an ACL. */
export const REPLICA_WORD = '^[A-Za-z0-9._:-]{1,100}$'

const DEFAULT_PORT = 6379

/** A name or an IPv4 address; an IPv6 address in brackets. */
const HOST = /^(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])$/

/**
 * Reads `redis://` or `rediss://` with user, password, host, port, and the number of the database as the path. User and
 * password are percent-decoded. Whatever else a URL may have is a problem, not something to ignore.
 */
export function parseRedisUrl(text: string): ParsedRedisUrl {
  const no = (problem: string): ParsedRedisUrl => ({ ok: false, problem })
  const [, scheme = ''] = /^([a-z][a-z0-9+.-]*):\/\//i.exec(text) ?? []
  if (scheme === '') return no('no scheme')
  if (!/^rediss?$/i.test(scheme)) return no('another scheme')
  // URL() repairs more than what may be used safely: white space and backslashes.
  if (/[\s\\]/.test(text)) return no('white space or a backslash')
  if (/[?#]/.test(text)) return no('a query or a fragment; ? and # of a password are %3F and %23')
  if (!URL.canParse(text))
    return no('a host or a port that cannot be read; / and @ of a password are %2F and %40')
  const url = new URL(text)
  if (!HOST.test(url.hostname)) return no('no host, or one with other characters than those of a host')
  if (url.port === '0') return no('port 0')
  if (!/^\/?$|^\/\d{1,5}$/.test(url.pathname)) return no('a path that is not the number of a database')
  const [username, password] = [decoded(url.username), decoded(url.password)]
  if (username === undefined || password === undefined) return no('a % in user or password that is not %25')
  if (username !== '' && password === '') return no('a user without a password')
  return {
    ok: true,
    address: {
      host: url.hostname.replace(/^\[(.*)\]$/, '$1'),
      port: url.port === '' ? DEFAULT_PORT : Number(url.port),
      db: Number(url.pathname.slice(1)),
      ...(username !== '' && { username }),
      ...(password !== '' && { password }),
      isEncrypted: url.protocol === 'rediss:',
    },
  }
}

/**
 * The namespace of replicas where none is set: the host of the upstream's URL, with its port and base path, as in
 * `focus-server:5000` or `example.com:lab-2`. It may be no `REPLICA_WORD`; then one has to be set.
 */
export function defaultNamespace(upstreamUrl: string): string {
  const { host, pathname } = new URL(upstreamUrl)
  const path = pathname.replace(/\/+$/, '').replaceAll('/', ':')
  // Brackets would be a class of characters in a pattern of an ACL.
  return `${host.replace(/[[\]]/g, '')}${path}`
}

function decoded(text: string): string | undefined {
  try {
    return decodeURIComponent(text)
  } catch {
    return undefined
  }
}
