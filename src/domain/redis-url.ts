/** The address of Redis or Valkey and the credentials, from the URL. */
export type RedisAddress = {
  readonly host: string
  readonly port: number
  readonly db: number
  readonly username?: string
  readonly password?: string
  readonly isEncrypted: boolean
}

/** An address, or what is wrong with the URL. The problem never quotes the URL, which may contain a password. */
export type ParsedRedisUrl =
  | { readonly ok: true; readonly address: RedisAddress }
  | { readonly ok: false; readonly problem: string }

/** The allowed form of a namespace and a replica's name: no character is special in a key or in an ACL pattern. */
export const REPLICA_WORD = '^[A-Za-z0-9._:-]{1,100}$'

const DEFAULT_PORT = 6379

/** A name, an IPv4 address, or an IPv6 address in brackets. */
const HOST = /^(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])$/

/**
 * Parses `redis://` or `rediss://` with user, password, host, port, and the number of the database as the path. User and
 * password are percent-decoded. Any other part of a URL is reported as a problem and not ignored.
 */
export function parseRedisUrl(text: string): ParsedRedisUrl {
  const no = (problem: string): ParsedRedisUrl => ({ ok: false, problem })
  const [, scheme = ''] = /^([a-z][a-z0-9+.-]*):\/\//i.exec(text) ?? []
  if (scheme === '') return no('no scheme')
  if (!/^rediss?$/i.test(scheme)) return no('a scheme other than redis:// and rediss://')
  // URL() silently removes whitespace and converts backslashes, which is not safe.
  if (/[\s\\]/.test(text)) return no('whitespace or a backslash')
  if (/[?#]/.test(text)) return no('a query or a fragment; in a password, write %3F for ? and %23 for #')
  if (!URL.canParse(text)) return no('an invalid host or port; in a password, write %2F for / and %40 for @')
  const url = new URL(text)
  if (!HOST.test(url.hostname)) return no('no host, or a host with invalid characters')
  if (url.port === '0') return no('port 0')
  if (!/^\/?$|^\/\d{1,5}$/.test(url.pathname)) return no('a path that is not a database number')
  const [username, password] = [decoded(url.username), decoded(url.password)]
  if (username === undefined || password === undefined)
    return no('an invalid % sequence in the user or password; write %25 for %')
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
 * The default namespace of replicas: the host of the upstream's URL, with its port and base path, as in
 * `focus-server:5000` or `example.com:lab-2`. If it does not match `REPLICA_WORD`, a namespace has to be configured.
 */
export function defaultNamespace(upstreamUrl: string): string {
  const { host, pathname } = new URL(upstreamUrl)
  const path = pathname.replace(/\/+$/, '').replaceAll('/', ':')
  // In an ACL pattern, brackets would be a character class.
  return `${host.replace(/[[\]]/g, '')}${path}`
}

function decoded(text: string): string | undefined {
  try {
    return decodeURIComponent(text)
  } catch {
    return undefined
  }
}
