/** The members of a list in which quoted commas do not separate (RFC 9110, 5.6.1). */
const MEMBER = /(?:[^,"]|"(?:[^"\\]|\\.)*"?)+/g

/**
 * The seconds that a client is ready to wait, from a `Prefer` header (RFC 7240, 4.3). The first `wait` counts.
 * Undefined without one, or when its value is not a whole number.
 */
export function waitSeconds(prefer: string | undefined): number | undefined {
  const first = prefer?.match(MEMBER)?.find(member => /^\s*wait\s*(?:[=;]|$)/i.test(member))
  const value = first && /^\s*wait\s*=\s*("?)(\d+)\1\s*(?:;|$)/i.exec(first)?.[2]
  return value ? Number(value) : undefined
}
