import { credentialsOf } from '../upstream/credentials.js'

/** Where a running proxy answers: `base` has no credentials, no `/-/` and no slash at its end. */
export type ProxyUrl = {
  readonly base: string
  readonly headers: { readonly authorization?: string }
}

/** Reads the URL of a proxy as the Python client reads it; undefined when it is none. */
export function readProxyUrl(text: string): ProxyUrl | undefined {
  const trimmed = text.trim()
  // A backslash is a slash for some and a part of the name for others.
  if (!/^https?:\/\/[!-.0-~][!-~]*$/i.test(trimmed) || /[\\?#]/.test(trimmed)) return undefined
  if (!URL.canParse(trimmed)) return undefined
  const url = new URL(trimmed)
  if (url.port === '0') return undefined
  // The address of its page will do as well.
  const path = url.pathname.replace(/(\/-)?\/*$/, '')
  return { base: `${url.protocol}//${url.host}${path}`, headers: credentialsOf(url) }
}

/** `http://user:secret@host/` as `http://***@host/`, also where the secret makes it no URL. */
export function withoutAnyCredentials(text: string): string {
  return text.replace(/^([a-z][a-z0-9+.-]*:\/\/)?.*@/is, '$1***@')
}

/** Where a redirect leads, for people: what to give as `--proxy` where only that has to change. */
export function redirectTarget(location: string, from: string): string {
  if (!URL.canParse(location, from)) return location
  const url = new URL(location, from)
  url.username = ''
  url.password = ''
  return `${url}`.replace(/\/-\/(status|wait)(\?.*)?$/, '')
}
