import { isIPv6 } from 'node:net'

/** The authority of a URL: a host, and a port where one is given. */
export type Authority = { readonly host: string; readonly port: string | undefined }

/** Unreserved characters, sub-delimiters and percent-encoded bytes (RFC 3986, 3.2.2); IPv4 addresses are among these. */
const REGISTERED_NAME = /^(?:[\w.~!$&'()*+,;=-]|%[0-9a-f]{2})+$/i

const FUTURE_ADDRESS = /^v[0-9a-f]+\.[\w.~!$&'()*+,;=:-]+$/i

const MAX_PORT = 65_535

/**
 * Parses an authority (RFC 9110, 7.2). Returns undefined for anything else. Credentials are not part of an authority.
 */
export function authorityOf(text: string): Authority | undefined {
  const colon = text.lastIndexOf(':')
  const hasPort = colon > text.lastIndexOf(']')
  const host = hasPort && colon !== -1 ? text.slice(0, colon) : text
  const port = hasPort && colon !== -1 ? text.slice(colon + 1) : ''
  if (!isHost(host) || !/^\d*$/.test(port) || Number(port) > MAX_PORT) return undefined
  return { host, port: port === '' ? undefined : port }
}

/** Whether a string is a valid port number, 1 to 65535. */
export function isPort(text: string): boolean {
  return /^\d{1,5}$/.test(text) && Number(text) > 0 && Number(text) <= MAX_PORT
}

function isHost(text: string): boolean {
  if (!text.startsWith('[')) return REGISTERED_NAME.test(text)
  const address = text.slice(1, -1)
  return text.endsWith(']') && (isIPv6(address) || FUTURE_ADDRESS.test(address)) && !address.includes('%')
}
