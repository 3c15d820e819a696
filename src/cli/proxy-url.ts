import { credentialsOf } from '../upstream/credentials.js'

/** The URL of a running proxy. `base` has no credentials, no `/-/` and no trailing slash. */
export type ProxyUrl = {
  readonly base: string
  readonly headers: { readonly authorization?: string }
}

/** Parses the URL of a proxy by the same rules as the Python client; undefined if it is invalid. */
export function readProxyUrl(text: string): ProxyUrl | undefined {
  const trimmed = text.trim()
  // Some parsers read a backslash as a slash, others as part of the name.
  if (!/^https?:\/\/[!-.0-~][!-~]*$/i.test(trimmed) || /[\\?#]/.test(trimmed)) return undefined
  if (!URL.canParse(trimmed)) return undefined
  const url = new URL(trimmed)
  if (url.port === '0') return undefined
  // The URL of the status page is accepted as well.
  const path = url.pathname.replace(/(\/-)?\/*$/, '')
  return { base: `${url.protocol}//${url.host}${path}`, headers: credentialsOf(url) }
}

/** `http://user:secret@host/` → `http://***@host/`, even if the credentials make the URL invalid. */
export function withoutAnyCredentials(text: string): string {
  return text.replace(/^([a-z][a-z0-9+.-]*:\/\/)?.*@/is, '$1***@')
}

/** The target of a redirect, for people: the value to give to `--proxy` instead. */
export function redirectTarget(location: string, from: string): string {
  if (!URL.canParse(location, from)) return location
  const url = new URL(location, from)
  url.username = ''
  url.password = ''
  return `${url}`.replace(/\/-\/(status|wait)(\?.*)?$/, '')
}
