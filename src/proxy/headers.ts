import type { IncomingMessage, ServerResponse } from 'node:http'
import { PSEUDONYM } from '../server/pseudonym.js'
import { credentialsOf } from '../upstream/credentials.js'
import type { UpstreamTarget } from './exchange.js'

/** Whether the peer at this address is one whose forwarding headers are believed. */
export type TrustsPeer = (address: string) => boolean

/**
 * Headers that concern one connection only and are never forwarded (RFC 9110, 7.6.1), with those that named
 * proxies of HTTP/1.0 left behind. `Expect` is answered here, and `Host` is the upstream's.
 */
const HOP_BY_HOP: ReadonlySet<string> = new Set([
  'connection',
  'keep-alive',
  'proxy-connection',
  'proxy-authenticate',
  'proxy-authorization',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
  'http2-settings',
])

/** Request headers that are not copied: a connection's own, and those that a gateway sends in its own words. */
const NOT_COPIED: ReadonlySet<string> = new Set([
  ...HOP_BY_HOP,
  'host',
  'expect',
  'via',
  'x-forwarded-for',
  'x-forwarded-proto',
  'x-forwarded-host',
  'forwarded',
])

/** What only a gateway knows; from anybody else it would be a lie that the upstream may believe. */
const OF_GATEWAYS = /^(x-forwarded-.*|x-real-ip|forwarded)$/

/** How a request is forwarded: where to, and whose word about its client counts. */
export type Forwarding = {
  readonly upstreamUrl: URL
  readonly trusts: TrustsPeer
}

/**
 * The headers to send to the upstream, as a flat list of names and values: what the client sent, in its order, without
 * what concerns its own connection, and with what a gateway adds. The credentials of the upstream's URL stand in for a
 * client that has none.
 */
export function requestHeaders(
  received: IncomingMessage,
  { host: addressed }: Pick<UpstreamTarget, 'host'>,
  { upstreamUrl, trusts }: Forwarding,
): string[] {
  const { headers, rawHeaders } = received
  const named = connectionOptions(headers.connection)
  const peer = received.socket.remoteAddress ?? 'unknown'
  const isTrusted = trusts(peer)
  const sent = ['Host', upstreamUrl.host]
  for (let index = 0; index + 1 < rawHeaders.length; index += 2) {
    const name = rawHeaders[index] ?? ''
    const key = name.toLowerCase()
    if (NOT_COPIED.has(key) || named?.has(key) === true) continue
    if (!isTrusted && key.startsWith('x-') && OF_GATEWAYS.test(key)) continue
    const value = rawHeaders[index + 1] ?? ''
    // One fewer may forward it behind this one (RFC 9110, 7.6.2).
    const isCounted = key === 'max-forwards' && received.method === 'OPTIONS' && /^\d{1,9}$/.test(value)
    sent.push(name, isCounted ? String(Number(value) - 1) : value)
  }
  if (headers.authorization === undefined) {
    const { authorization } = credentialsOf(upstreamUrl)
    if (authorization !== undefined) sent.push('Authorization', authorization)
  }
  const earlier = isTrusted ? headers : NO_HEADERS
  const host = textOf(earlier['x-forwarded-host']) ?? addressed
  sent.push('X-Forwarded-For', appended(textOf(earlier['x-forwarded-for']), peer))
  sent.push('X-Forwarded-Proto', textOf(earlier['x-forwarded-proto']) ?? schemeOf(received))
  if (host !== '') sent.push('X-Forwarded-Host', host)
  const forwarded = textOf(earlier.forwarded)
  if (forwarded !== undefined) sent.push('Forwarded', appended(forwarded, forwardedElement(received, peer)))
  sent.push('Via', appended(textOf(headers.via), `${received.httpVersion} ${PSEUDONYM}`))
  return sent
}

const NO_HEADERS: IncomingMessage['headers'] = {}

/** What this gateway adds to a `Forwarded` of a trusted one (RFC 7239, 4 to 6). */
function forwardedElement(received: IncomingMessage, peer: string): string {
  return `for=${peer.includes(':') ? `"[${peer}]"` : peer};proto=${schemeOf(received)}`
}

/** Under what address the client knows this proxy; `host` is '' where it did not say. */
export type ClientView = { readonly scheme: string; readonly host: string; readonly prefix: string }

/** How the client, or the trusted gateway in front of us, addressed this request. */
export function clientView(
  received: IncomingMessage,
  { host, clientPrefix }: Pick<UpstreamTarget, 'host' | 'clientPrefix'>,
  trusts: TrustsPeer,
): ClientView {
  const trusted = trusts(received.socket.remoteAddress ?? '') ? received.headers : NO_HEADERS
  return {
    scheme: lastOf(textOf(trusted['x-forwarded-proto'])) ?? schemeOf(received),
    host: lastOf(textOf(trusted['x-forwarded-host'])) ?? host,
    prefix: clientPrefix,
  }
}

/** Headers as Node and undici receive them: names and values in turn, byte for byte. */
export type RawHeaders = readonly (Buffer | string)[]

/**
 * The headers to send to the client, as a flat list of names in lower case and values: the upstream's in their order, without what
 * concerns its own connection, redirects to itself under the client's address, and `Via`.
 *
 * @param view is asked only where a redirect needs it.
 */
export function responseHeaders(received: RawHeaders, upstreamUrl: URL, view: () => ClientView): string[] {
  const named = connectionOptions(headerOf(received, 'connection'))
  const sent: string[] = []
  let via = ''
  for (let index = 0; index + 1 < received.length; index += 2) {
    const key = latin1(received[index]).toLowerCase()
    if (HOP_BY_HOP.has(key) || named?.has(key) === true) continue
    const value = latin1(received[index + 1])
    if (key === 'via') via = appended(via, value)
    else if (key === 'location' || key === 'content-location')
      sent.push(key, relocated(value, upstreamUrl, view()))
    else sent.push(key, value)
  }
  sent.push('via', appended(via, `1.1 ${PSEUDONYM}`))
  return sent
}

/** What Node can write as a reason phrase; it throws at anything else. */
const REASON_PHRASE = /^[\t\x20-\x7e]+$/

/** Writes the head of a forwarded response, with the upstream's reason phrase where Node can write it. */
export function writeHead(
  response: ServerResponse,
  statusCode: number,
  phrase: string,
  headers: string[],
): void {
  if (REASON_PHRASE.test(phrase)) response.writeHead(statusCode, phrase, headers)
  else response.writeHead(statusCode, headers)
}

/** The values of a header, as one text; undefined without it. */
export function headerOf(headers: RawHeaders, name: string): string | undefined {
  let found: string | undefined
  for (let index = 0; index + 1 < headers.length; index += 2) {
    const each = headers[index]
    if (each?.length !== name.length || latin1(each).toLowerCase() !== name) continue
    found = appended(found, latin1(headers[index + 1]))
  }
  return found
}

/**
 * A reference to the upstream itself, under the address that the client used; any other as it is.
 *
 * The scheme may be the upstream's or the client's, because uvicorn builds its redirects with that of
 * `X-Forwarded-Proto`; a redirect to another scheme is meant as one.
 */
export function relocated(reference: string, upstream: URL, view: ClientView): string {
  const base = upstream.pathname.replace(/\/+$/, '')
  const authority = /^(?:https?:)?\/\/[^/?#]*/i.exec(reference)?.[0]
  if (authority === undefined && !reference.startsWith('/')) return reference
  if (authority !== undefined) {
    const url = URL.canParse(authority, upstream.href) ? new URL(authority, upstream.href) : undefined
    const isSameScheme = url?.protocol === upstream.protocol || url?.protocol === `${view.scheme}:`
    if (url?.host !== upstream.host || !isSameScheme) return reference
  }
  const path = reference.slice(authority?.length ?? 0)
  const isBelow = base !== '' && path.startsWith(base) && /^([/?#]|$)/.test(path.slice(base.length))
  const own = isBelow ? path.slice(base.length) : path
  const seen = view.prefix + (own === '' || own.startsWith('/') ? own : `/${own}`)
  // Where nobody said under what name we are known, a path alone still leads back here.
  if (authority === undefined || view.host === '') return seen === '' ? '/' : seen
  return `${view.scheme}://${view.host}${seen}`
}

function latin1(text: Buffer | string | undefined): string {
  return typeof text === 'string' ? text : (text?.toString('latin1') ?? '')
}

/** The names that a `Connection` header declares as its own, in lower case; undefined for none that matters. */
function connectionOptions(connection: string | undefined): ReadonlySet<string> | undefined {
  if (connection === undefined || connection === 'keep-alive' || connection === 'close') return undefined
  return new Set(connection.split(',').map(name => name.trim().toLowerCase()))
}

function appended(list: string | undefined, item: string): string {
  return list === undefined || list === '' ? item : `${list}, ${item}`
}

function lastOf(list: string | undefined): string | undefined {
  return list?.split(',').at(-1)?.trim()
}

function textOf(value: string | string[] | undefined): string | undefined {
  return typeof value === 'string' ? value : value?.join(', ')
}

function schemeOf(received: IncomingMessage): 'http' | 'https' {
  return 'encrypted' in received.socket ? 'https' : 'http'
}
