/** The members of a list whose commas may stand in quotes (RFC 9110, 5.6.1). */
const MEMBER = /(?:[^,"]|"(?:[^"\\]|\\.)*"?)+/g

/**
 * The seconds that a client is ready to wait, of a `Prefer` field (RFC 7240, 4.3): the first `wait` counts.
 * Undefined without one, or when its value is no whole number.
 */
export function waitSeconds(prefer: string | undefined): number | undefined {
  const first = prefer?.match(MEMBER)?.find(member => /^\s*wait\s*(?:[=;]|$)/i.test(member))
  const value = first && /^\s*wait\s*=\s*("?)(\d+)\1\s*(?:;|$)/i.exec(first)?.[2]
  return value ? Number(value) : undefined
}
