/** The value of a header: a string, or the file that contains it. */
export type HeaderValue = string | { readonly file: string }

/** Headers that the probe sets itself, or that belong to its connection. */
const RESERVED: ReadonlySet<string> = new Set([
  ...['connection', 'keep-alive', 'proxy-connection', 'te', 'trailer', 'transfer-encoding', 'upgrade'],
  ...['content-length', 'expect', 'host'],
])

/** Whether a header with this name can be sent with a probe. */
export function isProbeHeader(name: string): boolean {
  return /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(name) && !RESERVED.has(name.toLowerCase())
}

/** The value in a file, without surrounding whitespace; undefined if it is not a valid header value. */
export function headerValueIn(text: string): string | undefined {
  const value = text.trim()
  return value !== '' && /^[\t\x20-\x7e]*$/.test(value) ? value : undefined
}
