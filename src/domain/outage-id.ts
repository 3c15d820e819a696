import { type Instant, rfc3339 } from './time.js'

/** The id of an outage in a URL: its start in UTC, to the millisecond, as in `20260131T083000000Z`. */
export function outageId(startedAt: Instant): string {
  return rfc3339(startedAt).replace(/[-:.]/g, '')
}

/** The start of the outage with this id, to the millisecond; undefined when the text is not an id. */
export function startOfOutage(id: string): Instant | undefined {
  const [, ...parts] = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)(\d{3})Z$/.exec(id) ?? []
  const [year, month, day, hour, minute, second, millisecond] = parts
  const at = Date.parse(`${year}-${month}-${day}T${hour}:${minute}:${second}.${millisecond}Z`)
  return Number.isNaN(at) ? undefined : at
}
