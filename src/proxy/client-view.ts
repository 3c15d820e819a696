import type { IncomingMessage } from 'node:http'
import { isIP, SocketAddress } from 'node:net'
import { type Authority, authorityOf, isPort } from '../server/authority.js'
import { type ForwardedElement, forwardedElements } from './forwarded.js'

/** Whether the peer at this address is one whose forwarding headers are believed. */
export type TrustsPeer = (address: string) => boolean

/** How a request was addressed, as far as its target and `Host` say. */
export type Addressed = {
  /** The authority that the client addressed: of an absolute-form target, else of `Host`; '' for none. */
  readonly host: string
  /** What stood before focus-server's own path in the URL: the base path, or ''. */
  readonly clientPrefix: string
}

/** Who sends a request, and under what address that client knows this proxy. */
export type ClientView = {
  /** The other end of the connection. */
  readonly peer: string
  /** Whether the peer's word about its clients is believed. */
  readonly isTrusted: boolean
  /** The client's address: of the peer, or behind trusted gateways the one that they name. */
  readonly address: string
  /** The addresses that a trusted peer names, the client's first. Some may be no addresses. */
  readonly earlier: readonly string[]
  readonly scheme: 'http' | 'https'
  /** With its port where that is not the scheme's own; '' where the client did not say. */
  readonly host: string
  /** The port, where a trusted peer names one apart from the host. */
  readonly port: string | undefined
  /** What stands before focus-server's own path in the client's URL, '' or like `/focus-server`. */
  readonly prefix: string
  /** The part of `prefix` that this proxy has taken off. */
  readonly ownPrefix: string
  /** The `Forwarded` of a trusted peer, where it does not contradict the rest. */
  readonly forwarded: string | undefined
}

const NO_ADDRESSES: readonly string[] = []

/**
 * Who sends a request, and how that client addressed it: the one place that decides it, for redirects, for what
 * focus-server is sent, and for everything that is counted or shown by client.
 *
 * A trusted peer is believed where what it says is well-formed. Of a list the last value counts, which the peer itself
 * wrote. `Forwarded` (RFC 7239) is believed only of a peer that sends none of `X-Forwarded-For`, `-Proto` and `-Host`: a
 * gateway that sets these may pass on whatever `Forwarded` its client sends. Beside them it is passed on where it agrees.
 */
export function clientView(received: IncomingMessage, addressed: Addressed, trusts: TrustsPeer): ClientView {
  const peer = plainAddress(received.socket.remoteAddress ?? '')
  const scheme = 'encrypted' in received.socket ? 'https' : 'http'
  const { host, clientPrefix } = addressed
  if (!trusts(peer)) {
    // One literal: a spread costs more than all the rest, for each request.
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

/** The address of a request's client: of the peer, or behind trusted gateways the one that they name. */
export function addressOf(received: IncomingMessage, trusts: TrustsPeer): string {
  const peer = plainAddress(received.socket.remoteAddress ?? '')
  return trusts(peer) ? claimsOf(received, peer, trusts).address : peer
}

/** What a trusted peer says of its client. */
type Claims = Pick<ClientView, 'address' | 'earlier'> & {
  readonly scheme: ClientView['scheme'] | undefined
  readonly authority: Authority | undefined
}

type AllClaims = Claims & {
  readonly port: string | undefined
  /** What its `Forwarded` says, used or not. */
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
  // The elements of gateways that are trusted, the one nearest to the client first.
  const believed = elements.slice(-hops)
  return {
    earlier,
    address,
    scheme: first(believed, element => schemeOf(element.get('proto'))),
    authority: first(believed, element => authorityOf(element.get('host') ?? '')),
  }
}

/** Whether claims do not contradict what was decided. A port alone does not count. */
function agrees(claims: Claims, { address, scheme, host }: ClientView): boolean {
  const decided = authorityOf(host)?.host.toLowerCase()
  return (
    claims.address === address &&
    (claims.scheme === undefined || claims.scheme === scheme) &&
    (claims.authority === undefined || claims.authority.host.toLowerCase() === decided)
  )
}

/** The nearest address that no trusted gateway has, and how many of the addresses named were believed for it. */
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
    // A trusted gateway hands on what its client wrote, which may be anything.
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

/** A WebSocket is addressed by `ws` or `wss`, and gateways say so; its handshake is a request of HTTP. */
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

/** The prefix that a trusted gateway has taken off, without a slash at its end. */
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

/** An address as it is shown: without brackets, without a port, and as IPv4 where it is one that is mapped to IPv6. */
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
