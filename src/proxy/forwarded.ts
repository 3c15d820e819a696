/** One element of `Forwarded`: its parameters by lower-case name. */
export type ForwardedElement = ReadonlyMap<string, string>

/** `name=value` with an optionally quoted value, and the separator. Some gateways do not quote colons and brackets. */
const PAIR = /[ \t]*([!#$%&'*+.^_`|~\w-]+)=(?:([!#$%&'*+.^_`|~\w:[\]-]+)|"((?:[^"\\]|\\.)*)")[ \t]*([;,]|$)/sy

/** Empty elements of a list are ignored (RFC 9110, 5.6.1), and an element may have empty pairs (RFC 7239, 4). */
const EMPTY = /[ \t]*([;,])|[ \t]+$/y

/** The elements of a `Forwarded` header (RFC 7239, 4), in order; undefined if it is malformed. */
export function forwardedElements(text: string | undefined): readonly ForwardedElement[] | undefined {
  if (text === undefined) return undefined
  const elements: Map<string, string>[] = []
  let element: Map<string, string> | undefined
  let position = 0
  while (position < text.length) {
    EMPTY.lastIndex = position
    const empty = EMPTY.exec(text)
    if (empty !== null) {
      if (empty[1] === ',') element = undefined
      position = EMPTY.lastIndex
      continue
    }
    PAIR.lastIndex = position
    const pair = PAIR.exec(text)
    if (pair === null) return undefined
    const [, name = '', token, quoted = '', separator] = pair
    if (element === undefined) {
      element = new Map()
      elements.push(element)
    }
    // A parameter must not occur twice in an element.
    if (element.has(name.toLowerCase())) return undefined
    element.set(name.toLowerCase(), token ?? quoted.replace(/\\(.)/gs, '$1'))
    if (separator === ',') element = undefined
    position = PAIR.lastIndex
  }
  return elements.length === 0 ? undefined : elements
}
