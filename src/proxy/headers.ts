import type { IncomingMessage, ServerResponse } from 'node:http'
import { PSEUDONYM } from '../server/pseudonym.js'
import { credentialsOf } from '../upstream/credentials.js'
import type { ClientView } from './client-view.js'

/** Hop-by-hop headers, which are never forwarded (RFC 9110, 7.6.1), including obsolete ones of HTTP/1.0 proxies. */
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

/**
 * Request headers that are not copied: hop-by-hop ones, and those that a gateway writes itself. `Expect` is handled
 * here, and `Host` is the upstream's.
 */
const NOT_COPIED: ReadonlySet<string> = new Set([
  ...HOP_BY_HOP,
  'host',
  'expect',
  'via',
  'x-forwarded-for',
  'x-forwarded-proto',
  'x-forwarded-host',
  'x-forwarded-port',
  'x-forwarded-prefix',
  'forwarded',
])

/**
 * Headers that only a gateway may set: from any other client they would be forged, and the upstream might trust them.
 * `docs/reference/requests.md` lists these names.
 */
const OF_GATEWAYS: ReadonlySet<string> = new Set([
  ...['forwarded', 'forwarded-for', 'x-forwarded', 'x-real-ip', 'x-client-ip', 'true-client-ip', 'client-ip'],
  ...['cf-connecting-ip', 'cf-connecting-ipv6', 'cf-pseudo-ipv4', 'fastly-client-ip', 'fly-client-ip'],
  ...['x-azure-clientip', 'x-azure-socketip', 'x-appengine-user-ip', 'x-cluster-client-ip'],
  ...[
    'x-envoy-external-address',
    'x-original-forwarded-for',
    'x-original-host',
    'x-remote-ip',
    'x-remote-addr',
  ],
])

function isOfGateways(key: string): boolean {
  return key.startsWith('x-forwarded-') || OF_GATEWAYS.has(key)
}

/** Whether a request header is removed because only a gateway may set it. */
function isDisguised(key: string, isTrusted: boolean): boolean {
  // Nearly every header returns here.
  if (!key.includes('_')) return !isTrusted && isOfGateways(key)
  // A WSGI or CGI upstream treats `_` like `-`. No gateway uses `_`, so the client wrote it, regardless of the peer.
  return isOfGateways(key.replaceAll('_', '-'))
}

/** Settings of forwarding. */
export type Forwarding = {
  readonly upstreamUrl: URL
}

/**
 * The headers to send to the upstream, as a flat list of names and values: the client's headers in their order, without
 * hop-by-hop headers, plus those that a gateway adds. If the client sends no credentials, those of the upstream's URL
 * are used.
 */
export function requestHeaders(
  received: IncomingMessage,
  view: ClientView,
  { upstreamUrl }: Forwarding,
): string[] {
  const { headers, rawHeaders } = received
  const named = connectionOptions(headers.connection)
  const { isTrusted } = view
  const sent = ['Host', upstreamUrl.host]
  for (let index = 0; index + 1 < rawHeaders.length; index += 2) {
    const name = rawHeaders[index] ?? ''
    const key = name.toLowerCase()
    if (NOT_COPIED.has(key) || named?.has(key) === true || isDisguised(key, isTrusted)) continue
    const value = rawHeaders[index + 1] ?? ''
    // Decrement the number of remaining hops (RFC 9110, 7.6.2).
    const isCounted = key === 'max-forwards' && received.method === 'OPTIONS' && /^\d{1,9}$/.test(value)
    sent.push(name, isCounted ? String(Number(value) - 1) : value)
  }
  if (headers.authorization === undefined) {
    const { authorization } = credentialsOf(upstreamUrl)
    if (authorization !== undefined) sent.push('Authorization', authorization)
  }
  const peer = view.peer === '' ? 'unknown' : view.peer
  sent.push('X-Forwarded-For', [...view.earlier, peer].join(', '))
  sent.push('X-Forwarded-Proto', view.scheme)
  if (view.host !== '') sent.push('X-Forwarded-Host', view.host)
  if (view.port !== undefined) sent.push('X-Forwarded-Port', view.port)
  // The server knows its own base path. A gateway's prefix is incomplete without it.
  if (view.prefix !== view.ownPrefix) sent.push('X-Forwarded-Prefix', view.prefix)
  if (view.forwarded !== undefined)
    sent.push('Forwarded', appended(view.forwarded, forwardedElement(received, peer)))
  sent.push('Via', appended(textOf(headers.via), `${received.httpVersion} ${PSEUDONYM}`))
  return sent
}

/** The element that this gateway appends to the `Forwarded` of a trusted peer (RFC 7239, 4 to 6). */
function forwardedElement(received: IncomingMessage, peer: string): string {
  const scheme = 'encrypted' in received.socket ? 'https' : 'http'
  return `for=${peer.includes(':') ? `"[${peer}]"` : peer};proto=${scheme}`
}

/** Headers as Node and undici receive them: alternating names and values, byte for byte. */
export type RawHeaders = readonly (Buffer | string)[]

/**
 * The headers to send to the client, as a flat list of lower-case names and values: the upstream's headers in their
 * order, without hop-by-hop headers, with its redirects to itself rewritten to the client's address, plus `Via`.
 */
export function responseHeaders(received: RawHeaders, upstreamUrl: URL, view: ClientView): string[] {
  const named = connectionOptions(headerOf(received, 'connection'))
  const sent: string[] = []
  let via = ''
  for (let index = 0; index + 1 < received.length; index += 2) {
    const key = latin1(received[index]).toLowerCase()
    if (HOP_BY_HOP.has(key) || named?.has(key) === true) continue
    const value = latin1(received[index + 1])
    if (key === 'via') via = appended(via, value)
    else if (key === 'location' || key === 'content-location')
      sent.push(key, relocated(value, upstreamUrl, view))
    else sent.push(key, value)
  }
  sent.push('via', appended(via, `1.1 ${PSEUDONYM}`))
  return sent
}

/** Headers that frame or route a message and therefore must not be trailers (RFC 9110, 6.5.1). */
const NOT_IN_TRAILERS: ReadonlySet<string> = new Set([...HOP_BY_HOP, 'content-length', 'host'])

/** The trailers to send to the client, as pairs for Node in the upstream's order. */
export function responseTrailers(received: RawHeaders): [string, string][] {
  const sent: [string, string][] = []
  for (let index = 0; index + 1 < received.length; index += 2) {
    const key = latin1(received[index]).toLowerCase()
    if (!NOT_IN_TRAILERS.has(key)) sent.push([key, latin1(received[index + 1])])
  }
  return sent
}

/** Whether a response is framed in a way that can be forwarded without loss. */
export function isFramed(headers: RawHeaders): boolean {
  const coding = headerOf(headers, 'transfer-encoding')
  // Only chunked is decoded here. With another coding the client would get encoded data without the header.
  if (coding !== undefined && coding.trim().toLowerCase() !== 'chunked') return false
  return Number(headerOf(headers, 'content-length') ?? 0) <= Number.MAX_SAFE_INTEGER
}

/** Whether Node accepts a string as a reason phrase; it throws otherwise. */
export function isReasonPhrase(text: string): boolean {
  return /^[\t\x20-\x7e]+$/.test(text)
}

/** Writes the head of a forwarded response, with the upstream's reason phrase if Node accepts it. */
export function writeHead(
  response: ServerResponse,
  statusCode: number,
  phrase: string,
  headers: string[],
): void {
  if (isReasonPhrase(phrase)) response.writeHead(statusCode, phrase, headers)
  else response.writeHead(statusCode, headers)
}

/** The values of a header, joined with commas; undefined without it. */
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
 * Rewrites a reference to the upstream to the address that the client used. Any other reference is unchanged.
 *
 * The scheme may be the upstream's or the client's, because uvicorn builds redirects with the scheme of
 * `X-Forwarded-Proto`. A redirect to another scheme is intentional.
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
  const isBelow = isUnder(path, base)
  const rest = isBelow ? path.slice(base.length) : path
  const own = rest === '' || rest.startsWith('/') ? rest : `/${rest}`
  const seen = missingPrefix(own, view) + own
  if (authority !== undefined && view.host !== '') return `${view.scheme}://${view.host}${seen}`
  // If the client's host is unknown, a path still leads back here. Two leading slashes would be read as a host.
  if (seen.startsWith('//')) return `/.${seen}`
  return seen === '' ? '/' : seen
}

/**
 * The prefix that a path of the upstream lacks. An upstream that knows its public prefix (uvicorn's `--root-path`, or
 * `X-Forwarded-Prefix`) has already written all of it, or the part that this proxy removes.
 */
function missingPrefix(path: string, { prefix, ownPrefix }: ClientView): string {
  if (isUnder(path, prefix)) return ''
  return isUnder(path, ownPrefix) ? prefix.slice(0, prefix.length - ownPrefix.length) : prefix
}

function isUnder(path: string, prefix: string): boolean {
  return prefix !== '' && path.startsWith(prefix) && /^([/?#]|$)/.test(path.slice(prefix.length))
}

/** A string as received over the wire. */
export function latin1(text: Buffer | string | undefined): string {
  return typeof text === 'string' ? text : (text?.toString('latin1') ?? '')
}

/** The header names that `Connection` lists, in lower case; undefined if there are none to remove. */
function connectionOptions(connection: string | undefined): ReadonlySet<string> | undefined {
  if (connection === undefined || connection === 'keep-alive' || connection === 'close') return undefined
  return new Set(connection.split(',').map(name => name.trim().toLowerCase()))
}

function appended(list: string | undefined, item: string): string {
  return list === undefined || list === '' ? item : `${list}, ${item}`
}

function textOf(value: string | string[] | undefined): string | undefined {
  return typeof value === 'string' ? value : value?.join(', ')
}
