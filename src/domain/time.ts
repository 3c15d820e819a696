/**
 * A moment, in milliseconds since the Unix epoch, fractions allowed.
 *
 * The shell takes it from a clock that never steps (see `upstream/clock`), so two instants of one process
 * can be subtracted and compared whatever the wall clock does meanwhile.
 */
export type Instant = number

/** The moment in RFC 3339, UTC, with milliseconds: `2026-01-31T08:30:00.000Z`. */
export function rfc3339(at: Instant): string {
  return new Date(at).toISOString()
}

/** A span for people, in at most two units: `812 ms`, `42 s`, `5 h 12 min`, `3 d 4 h`. */
export function inWords(spanMs: number): string {
  const milliseconds = Math.max(0, Math.round(spanMs))
  if (milliseconds < 1000) return `${milliseconds} ms`
  const seconds = Math.round(spanMs / 1000)
  if (seconds < 60) return `${seconds} s`
  const minutes = Math.floor(seconds / 60)
  if (minutes < 60) return twoUnits(minutes, 'min', seconds % 60, 's')
  const hours = Math.floor(minutes / 60)
  if (hours < 24) return twoUnits(hours, 'h', minutes % 60, 'min')
  return twoUnits(Math.floor(hours / 24), 'd', hours % 24, 'h')
}

function twoUnits(large: number, largeUnit: string, small: number, smallUnit: string): string {
  return small === 0 ? `${large} ${largeUnit}` : `${large} ${largeUnit} ${small} ${smallUnit}`
}

const UNITS_MS: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  m: 60_000,
  min: 60_000,
  h: 3_600_000,
}

/** The span that a person wrote, in milliseconds: `500ms`, `60s`, `10m`, `1h`, a bare number for seconds. */
export function parseSpan(text: string): number | undefined {
  const [, value, unit] = /^(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|min|h|)$/.exec(text.trim()) ?? []
  return value === undefined ? undefined : Number(value) * (UNITS_MS[unit || 's'] ?? 0)
}
