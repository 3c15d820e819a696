/** The credentials of a URL as basic authentication (RFC 7617), if it holds any. */
export function credentialsOf(url: URL): { readonly authorization?: string } {
  if (url.username === '' && url.password === '') return {}
  const credentials = `${decoded(url.username)}:${decoded(url.password)}`
  return { authorization: `Basic ${Buffer.from(credentials).toString('base64')}` }
}

/** What stands in a URL may hold a lone `%`; then it is meant as it is. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}
