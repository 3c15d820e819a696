/**
 * The seconds that a client is ready to wait, of a `Prefer` field (RFC 7240, 4.3): the first `wait` counts.
 * Undefined without one, or when its value is no whole number.
 */
export function waitSeconds(prefer: string | undefined): number | undefined {
  const value = prefer && /(?:^|[,\s])wait\s*=\s*"?(\d{1,9})"?\s*(?:[,;]|$)/i.exec(prefer)?.[1]
  return value ? Number(value) : undefined
}
