import type { IncomingMessage } from 'node:http'
import type { UpstreamTarget } from './routing.js'

/** Whether the peer at this address is one whose forwarding fields are believed. */
export type TrustsPeer = (address: string) => boolean

/** How this gateway names itself in `Via` (RFC 9110, 7.6.3). */
export const PSEUDONYM = 'focus-breaker'

/**
 * Fields that concern one connection only and are never forwarded (RFC 9110, 7.6.1), with those that named
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

const REPLACED: ReadonlySet<string> = new Set([
  'host',
  'expect',
  'via',
  'forwarded',
  'x-forwarded-for',
  'x-forwarded-proto',
  'x-forwarded-host',
])

/**
 * The fields to send to the upstream, as a flat list of names and values: what the client sent, in its
 * order, without what concerns its own connection, and with what a gateway adds.
 */
export function requestFields(
  raw: IncomingMessage,
  target: UpstreamTarget,
  upstreamHost: string,
  trusts: TrustsPeer,
): string[] {
  const named = connectionOptions(raw.headers.connection)
  const fields = ['Host', upstreamHost]
  const sent = raw.rawHeaders
  for (let index = 0; index + 1 < sent.length; index += 2) {
    const name = sent[index] ?? ''
    const key = name.toLowerCase()
    if (!HOP_BY_HOP.has(key) && !REPLACED.has(key) && !named.has(key))
      fields.push(name, sent[index + 1] ?? '')
  }
  const peer = raw.socket.remoteAddress ?? 'unknown'
  const earlier = trusts(peer) ? raw.headers : {}
  const scheme = isEncrypted(raw) ? 'https' : 'http'
  fields.push('X-Forwarded-For', appended(textOf(earlier['x-forwarded-for']), peer))
  fields.push('X-Forwarded-Proto', textOf(earlier['x-forwarded-proto']) ?? scheme)
  fields.push('X-Forwarded-Host', textOf(earlier['x-forwarded-host']) ?? target.host)
  const forwarded = textOf(earlier.forwarded)
  if (forwarded !== undefined) fields.push('Forwarded', forwarded)
  fields.push('Via', appended(textOf(raw.headers.via), `${raw.httpVersion} ${PSEUDONYM}`))
  return fields
}

/** The scheme, authority and path prefix under which the client knows this proxy. */
export type ClientView = { readonly origin: string; readonly prefix: string }

/** How the client, or the trusted gateway in front of us, addressed this request. */
export function clientView(raw: IncomingMessage, target: UpstreamTarget, trusts: TrustsPeer): ClientView {
  const trusted = trusts(raw.socket.remoteAddress ?? '') ? raw.headers : {}
  const scheme = lastOf(textOf(trusted['x-forwarded-proto'])) ?? (isEncrypted(raw) ? 'https' : 'http')
  const host = lastOf(textOf(trusted['x-forwarded-host'])) ?? target.host
  return { origin: `${scheme}://${host}`, prefix: target.clientPrefix }
}

/** The fields of an answer, by lower-case name. */
export type ResponseFields = Record<string, string | string[] | undefined>

/**
 * The fields to send to the client: the upstream's without what concerns its own connection, its redirects
 * to itself under the client's address, and `Via`.
 */
export function responseFields(received: ResponseFields, upstream: URL, view: ClientView): ResponseFields {
  const named = connectionOptions(textOf(received.connection))
  const fields: ResponseFields = {}
  for (const [name, value] of Object.entries(received)) {
    if (HOP_BY_HOP.has(name) || named.has(name) || value === undefined) continue
    fields[name] = value
  }
  for (const name of ['location', 'content-location']) {
    const value = fields[name]
    if (typeof value === 'string') fields[name] = relocated(value, upstream, view)
  }
  fields.via = appended(textOf(fields.via), `1.1 ${PSEUDONYM}`)
  return fields
}

/**
 * A reference to the upstream itself, under the address that the client used; any other as it is.
 *
 * The scheme is not compared: uvicorn builds its redirects with the scheme of `X-Forwarded-Proto`.
 */
export function relocated(reference: string, upstream: URL, view: ClientView): string {
  const base = upstream.pathname.replace(/\/+$/, '')
  const isAbsolute = /^https?:\/\//i.test(reference)
  if (isAbsolute && !(URL.canParse(reference) && new URL(reference).host === upstream.host)) return reference
  if (!isAbsolute && (!reference.startsWith('/') || reference.startsWith('//'))) return reference
  const path = isAbsolute ? reference.replace(/^https?:\/\/[^/?#]*/i, '') : reference
  const isBelow =
    base !== '' && (path === base || (/^[/?#]/.test(path.slice(base.length)) && path.startsWith(base)))
  const own = isBelow ? path.slice(base.length) : path
  const seen = view.prefix + (own.startsWith('/') || own === '' ? own : `/${own}`)
  return isAbsolute ? view.origin + seen : seen === '' ? '/' : seen
}

/** The names that a `Connection` field declares as its own, in lower case. */
function connectionOptions(connection: string | undefined): ReadonlySet<string> {
  if (connection === undefined) return NO_NAMES
  return new Set(connection.split(',').map(name => name.trim().toLowerCase()))
}

const NO_NAMES: ReadonlySet<string> = new Set()

function appended(list: string | undefined, item: string): string {
  return list === undefined || list === '' ? item : `${list}, ${item}`
}

function lastOf(list: string | undefined): string | undefined {
  return list?.split(',').at(-1)?.trim()
}

function textOf(value: string | string[] | undefined): string | undefined {
  return typeof value === 'string' ? value : value?.join(', ')
}

function isEncrypted(raw: IncomingMessage): boolean {
  return 'encrypted' in raw.socket
}
