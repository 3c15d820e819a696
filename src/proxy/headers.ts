import type { IncomingMessage } from 'node:http'
import { credentialsOf } from '../upstream/credentials.js'
import type { UpstreamTarget } from './classify.js'

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

/** Fields that are sent anew, as a gateway's own. */
const REPLACED: ReadonlySet<string> = new Set([
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

/**
 * The fields to send to the upstream, as a flat list of names and values: what the client sent, in its
 * order, without what concerns its own connection, and with what a gateway adds. The credentials of the
 * upstream's URL stand in for a client that has none.
 */
export function requestFields(
  raw: IncomingMessage,
  target: UpstreamTarget,
  upstreamUrl: URL,
  trusts: TrustsPeer,
): string[] {
  const named = connectionOptions(raw.headers.connection)
  const peer = raw.socket.remoteAddress ?? 'unknown'
  const isTrusted = trusts(peer)
  const fields = ['Host', upstreamUrl.host]
  const sent = raw.rawHeaders
  for (let index = 0; index + 1 < sent.length; index += 2) {
    const name = sent[index] ?? ''
    const key = name.toLowerCase()
    if (HOP_BY_HOP.has(key) || REPLACED.has(key) || named.has(key)) continue
    if (!isTrusted && OF_GATEWAYS.test(key)) continue
    const value = sent[index + 1] ?? ''
    // One fewer may forward it behind this one (RFC 9110, 7.6.2).
    const isCounted = key === 'max-forwards' && raw.method === 'OPTIONS' && /^\d{1,9}$/.test(value)
    fields.push(name, isCounted ? String(Number(value) - 1) : value)
  }
  if (raw.headers.authorization === undefined) {
    const { authorization } = credentialsOf(upstreamUrl)
    if (authorization !== undefined) fields.push('Authorization', authorization)
  }
  const earlier = isTrusted ? raw.headers : {}
  const host = textOf(earlier['x-forwarded-host']) ?? target.host
  fields.push('X-Forwarded-For', appended(textOf(earlier['x-forwarded-for']), peer))
  fields.push('X-Forwarded-Proto', textOf(earlier['x-forwarded-proto']) ?? schemeOf(raw))
  if (host !== '') fields.push('X-Forwarded-Host', host)
  const forwarded = textOf(earlier.forwarded)
  if (forwarded !== undefined) fields.push('Forwarded', appended(forwarded, forwardedElement(raw, peer)))
  fields.push('Via', appended(textOf(raw.headers.via), `${raw.httpVersion} ${PSEUDONYM}`))
  return fields
}

/** What this gateway adds to a `Forwarded` of a trusted one (RFC 7239, 4 to 6). */
function forwardedElement(raw: IncomingMessage, peer: string): string {
  return `for=${peer.includes(':') ? `"[${peer}]"` : peer};proto=${schemeOf(raw)}`
}

/** Under what address the client knows this proxy; `host` is '' where it did not say. */
export type ClientView = { readonly scheme: string; readonly host: string; readonly prefix: string }

/** How the client, or the trusted gateway in front of us, addressed this request. */
export function clientView(raw: IncomingMessage, target: UpstreamTarget, trusts: TrustsPeer): ClientView {
  const trusted = trusts(raw.socket.remoteAddress ?? '') ? raw.headers : {}
  return {
    scheme: lastOf(textOf(trusted['x-forwarded-proto'])) ?? schemeOf(raw),
    host: lastOf(textOf(trusted['x-forwarded-host'])) ?? target.host,
    prefix: target.clientPrefix,
  }
}

/** The fields of an answer, by lower-case name. */
export type ResponseFields = Record<string, string | string[] | undefined>

/**
 * The fields to send to the client: the upstream's without what concerns its own connection, its redirects
 * to itself under the client's address, and `Via`.
 */
export function responseFields(received: ResponseFields, upstream: URL, view: ClientView): ResponseFields {
  const named = connectionOptions(textOf(received.connection))
  const fields = noFields()
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

/** A flat list of names and values, as Node and undici receive them, by lower-case name and byte for byte. */
export function fieldsFrom(raw: readonly (Buffer | string)[]): ResponseFields {
  const fields = noFields()
  for (let index = 0; index + 1 < raw.length; index += 2) {
    const name = latin1(raw[index]).toLowerCase()
    const value = latin1(raw[index + 1])
    const earlier = fields[name]
    fields[name] = earlier === undefined ? value : [earlier, value].flat()
  }
  return fields
}

/** Without a prototype: an upstream may call a field `constructor`. */
function noFields(): ResponseFields {
  return Object.create(null)
}

function latin1(text: Buffer | string | undefined): string {
  return typeof text === 'string' ? text : (text?.toString('latin1') ?? '')
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

function schemeOf(raw: IncomingMessage): 'http' | 'https' {
  return 'encrypted' in raw.socket ? 'https' : 'http'
}
