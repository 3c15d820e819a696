/** The value of a header: a text, or a file that holds it. */
export type HeaderValue = string | { readonly file: string }

/** Headers that a probe needs for itself, or that belong to its connection. */
const RESERVED: ReadonlySet<string> = new Set([
  ...['connection', 'keep-alive', 'proxy-connection', 'te', 'trailer', 'transfer-encoding', 'upgrade'],
  ...['content-length', 'expect', 'host'],
])

/** Whether a header of this name can be sent with a probe. */
export function isProbeHeader(name: string): boolean {
  return /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(name) && !RESERVED.has(name.toLowerCase())
}

/** The value that a file holds, without white space around it; undefined if HTTP has no place for it. */
export function headerValueIn(text: string): string | undefined {
  const value = text.trim()
  return value !== '' && /^[\t\x20-\x7e]*$/.test(value) ? value : undefined
}
