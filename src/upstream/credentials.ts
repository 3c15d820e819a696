/** The credentials of a URL as a basic `authorization` header (RFC 7617); empty if the URL has none. */
export function credentialsOf(url: URL): { readonly authorization?: string } {
  if (url.username === '' && url.password === '') return {}
  const credentials = `${decoded(url.username)}:${decoded(url.password)}`
  return { authorization: `Basic ${Buffer.from(credentials).toString('base64')}` }
}

/** Percent-decodes a string. A string with a stray `%` is returned unchanged. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}
