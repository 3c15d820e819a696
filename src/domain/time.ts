/**
 * A moment, in milliseconds since the Unix epoch, fractions allowed.
 *
 * It is taken from a clock that never steps (see `upstream/clock`), so two instants of one process
 * can be subtracted and compared whatever the wall clock does.
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

/**
 * Parses a span as people write it, to milliseconds: `500ms`, `60s`, `10m`, `1h30m`, or a bare number of seconds. Units must
 * be in order, largest first.
 */
export function parseSpan(text: string): number | undefined {
  const trimmed = text.trim()
  if (/^\d{1,9}(?:\.\d{1,3})?$/.test(trimmed)) return Number(trimmed) * 1000
  if (!/^(?:\d{1,9}(?:\.\d{1,3})?(?:ms|s|min|m|h))+$/.test(trimmed)) return undefined
  let spanMs = 0
  let lastUnitMs = Number.POSITIVE_INFINITY
  for (const [, value, unit = ''] of trimmed.matchAll(/([\d.]+)([a-z]+)/g)) {
    const unitMs = UNITS_MS[unit] ?? 0
    if (unitMs >= lastUnitMs) return undefined
    spanMs += Number(value) * unitMs
    lastUnitMs = unitMs
  }
  return spanMs
}
