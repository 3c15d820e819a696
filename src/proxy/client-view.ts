import type { IncomingMessage } from 'node:http'
import { isIP, SocketAddress } from 'node:net'
import { type Authority, authorityOf, isPort } from '../server/authority.js'
import { type ForwardedElement, forwardedElements } from './forwarded.js'

/** Whether the forwarding headers of the peer at this address are trusted. */
export type TrustsPeer = (address: string) => boolean

/** How a request was addressed, according to its target and `Host`. */
export type Addressed = {
  /** The authority of an absolute-form target, otherwise of `Host`; '' for none. */
  readonly host: string
  /** The prefix of focus-server's own path in the URL: the base path, or ''. */
  readonly clientPrefix: string
}

/** Who sent a request, and how that client addressed this proxy. */
export type ClientView = {
  /** The other end of the connection. */
  readonly peer: string
  /** Whether the peer's forwarding headers are trusted. */
  readonly isTrusted: boolean
  /** The client's address: the peer's address, or the one that trusted gateways report. */
  readonly address: string
  /** The addresses that a trusted peer reports, the client's first. Some may not be valid addresses. */
  readonly earlier: readonly string[]
  readonly scheme: 'http' | 'https'
  /** With the port, unless it is the scheme's default port; '' if the client sent no host. */
  readonly host: string
  /** The port, if a trusted peer reports it separately from the host. */
  readonly port: string | undefined
  /** The prefix of focus-server's own path in the client's URL: '', or for example `/focus-server`. */
  readonly prefix: string
  /** The part of `prefix` that this proxy has removed. */
  readonly ownPrefix: string
  /** The `Forwarded` header of a trusted peer, if it does not contradict the rest. */
  readonly forwarded: string | undefined
}

const NO_ADDRESSES: readonly string[] = []

/**
 * Determines who sent a request and how that client addressed it. This is the only place that decides it: for
 * redirects, for the headers sent to focus-server, and for everything that is counted or shown per client.
 *
 * Well-formed forwarding headers of a trusted peer are used. In a list, the last value counts, because the peer itself
 * wrote it. `Forwarded` (RFC 7239) is used only if the peer sends none of `X-Forwarded-For`, `-Proto` and `-Host`: a
 * gateway that sets these may pass on any `Forwarded` that its client sends. Next to them it is passed on if it agrees
 * with them.
 */
export function clientView(received: IncomingMessage, addressed: Addressed, trusts: TrustsPeer): ClientView {
  const peer = plainAddress(received.socket.remoteAddress ?? '')
  const scheme = 'encrypted' in received.socket ? 'https' : 'http'
  const { host, clientPrefix } = addressed
  if (!trusts(peer)) {
    // One literal, because a spread costs more per request than everything else here.
    return {
      peer,
      isTrusted: false,
      address: peer,
      earlier: NO_ADDRESSES,
      scheme,
      host,
      port: undefined,
      prefix: clientPrefix,
      ownPrefix: clientPrefix,
      forwarded: undefined,
    }
  }
  const claims = claimsOf(received, peer, trusts)
  const seenScheme = claims.scheme ?? scheme
  const authority = claims.authority ?? authorityOf(host)
  const port = claims.authority?.port ?? claims.port
  const view: ClientView = {
    peer,
    isTrusted: true,
    address: claims.address,
    earlier: claims.earlier,
    scheme: seenScheme,
    host: authority === undefined ? host : withPort(authority, port ?? authority.port, seenScheme),
    port: claims.port === undefined ? undefined : port,
    prefix: prefixOf(received) + clientPrefix,
    ownPrefix: clientPrefix,
    forwarded: undefined,
  }
  const { fromForwarded } = claims
  if (fromForwarded === undefined || !agrees(fromForwarded, view)) return view
  return { ...view, forwarded: textOf(received.headers.forwarded) }
}

/** The address of a request's client: the peer's address, or the one that trusted gateways report. */
export function addressOf(received: IncomingMessage, trusts: TrustsPeer): string {
  const peer = plainAddress(received.socket.remoteAddress ?? '')
  return trusts(peer) ? claimsOf(received, peer, trusts).address : peer
}

/** What a trusted peer reports about its client. */
type Claims = Pick<ClientView, 'address' | 'earlier'> & {
  readonly scheme: ClientView['scheme'] | undefined
  readonly authority: Authority | undefined
}

type AllClaims = Claims & {
  readonly port: string | undefined
  /** The contents of its `Forwarded` header, whether used or not. */
  readonly fromForwarded: Claims | undefined
}

function claimsOf({ headers }: IncomingMessage, peer: string, trusts: TrustsPeer): AllClaims {
  const namedPort = lastOf(headers['x-forwarded-port'])
  const port = namedPort !== undefined && isPort(namedPort) ? String(Number(namedPort)) : undefined
  const fromForwarded = claimsOfForwarded(textOf(headers.forwarded), peer, trusts)
  const hasOthers = ['x-forwarded-for', 'x-forwarded-proto', 'x-forwarded-host'].some(
    name => headers[name] !== undefined,
  )
  if (fromForwarded !== undefined && !hasOthers) return { ...fromForwarded, port, fromForwarded }
  const earlier = listOf(headers['x-forwarded-for']).map(plainAddress)
  return {
    earlier,
    address: clientOf(earlier, peer, trusts).address,
    scheme: schemeOf(lastOf(headers['x-forwarded-proto'])),
    authority: authorityOf(lastOf(headers['x-forwarded-host']) ?? ''),
    port,
    fromForwarded,
  }
}

function claimsOfForwarded(text: string | undefined, peer: string, trusts: TrustsPeer): Claims | undefined {
  const elements = forwardedElements(text)
  if (elements === undefined) return undefined
  const earlier = elements.map(element => plainAddress(element.get('for') ?? 'unknown'))
  const { address, hops } = clientOf(earlier, peer, trusts)
  // The elements written by trusted gateways, the one nearest to the client first.
  const trusted = elements.slice(-hops)
  return {
    earlier,
    address,
    scheme: first(trusted, element => schemeOf(element.get('proto'))),
    authority: first(trusted, element => authorityOf(element.get('host') ?? '')),
  }
}

/** Whether the claims agree with the decided view. A different port is ignored. */
function agrees(claims: Claims, { address, scheme, host }: ClientView): boolean {
  const decided = authorityOf(host)?.host.toLowerCase()
  return (
    claims.address === address &&
    (claims.scheme === undefined || claims.scheme === scheme) &&
    (claims.authority === undefined || claims.authority.host.toLowerCase() === decided)
  )
}

/**
 * The nearest address that does not belong to a trusted gateway, and the number of reported addresses used to find it.
 */
function clientOf(
  earlier: readonly string[],
  peer: string,
  trusts: TrustsPeer,
): { readonly address: string; readonly hops: number } {
  let address = peer
  let hops = 0
  for (const named of earlier.toReversed()) {
    if (!trusts(address)) break
    hops += 1
    // A trusted gateway passes on what its client wrote, which may be anything.
    if (isIP(named) === 0) break
    address = named
  }
  return { address, hops }
}

function first<T>(
  elements: readonly ForwardedElement[],
  find: (element: ForwardedElement) => T | undefined,
): T | undefined {
  for (const element of elements) {
    const found = find(element)
    if (found !== undefined) return found
  }
  return undefined
}

/** The HTTP scheme. Gateways may report `ws` or `wss` for a WebSocket, whose handshake is an HTTP request. */
function schemeOf(text: string | undefined): ClientView['scheme'] | undefined {
  switch (text?.toLowerCase()) {
    case 'http':
    case 'ws':
      return 'http'
    case 'https':
    case 'wss':
      return 'https'
    default:
      return undefined
  }
}

/** A path, segment by segment (RFC 3986, 3.3). */
const PREFIX = /^(?:\/(?!\.{1,2}(?:\/|$))[\w.~!$&'()*+,;=:@%-]+)*\/?$/

/** The prefix that a trusted gateway has removed, without a trailing slash. */
function prefixOf({ headers }: IncomingMessage): string {
  const prefix = lastOf(headers['x-forwarded-prefix'])
  return prefix !== undefined && PREFIX.test(prefix) ? prefix.replace(/\/$/, '') : ''
}

const DEFAULT_PORTS = { http: '80', https: '443' } as const

function withPort(
  { host, port: own }: Authority,
  port: string | undefined,
  scheme: ClientView['scheme'],
): string {
  if (port === undefined || (own === undefined && port === DEFAULT_PORTS[scheme])) return host
  return `${host}:${port}`
}

/** An address for display: without brackets and port, and with an IPv4-mapped IPv6 address as IPv4. */
export function plainAddress(text: string): string {
  // Nearly every address is a plain IPv4 one.
  if (!text.includes(':') && !text.startsWith('[')) return text
  const bare = /^\[([0-9a-f:.]+)\](?::\d+)?$/i.exec(text)?.[1] ?? /^([\d.]+):\d+$/.exec(text)?.[1] ?? text
  if (!/ffff:/i.test(bare) || isIP(bare) !== 6) return bare
  const { address } = new SocketAddress({ address: bare, family: 'ipv6' })
  return /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1] ?? bare
}

function textOf(value: string | string[] | undefined): string | undefined {
  return typeof value === 'string' ? value : value?.join(', ')
}

function listOf(value: string | string[] | undefined): string[] {
  const items = textOf(value)?.split(',') ?? []
  return items.map(item => item.trim()).filter(item => item !== '')
}

function lastOf(value: string | string[] | undefined): string | undefined {
  return textOf(value)?.split(',').at(-1)?.trim()
}
