import { type Instant, rfc3339 } from './time.js'

/** The id of an outage in a URL: its start in UTC, to the millisecond, as in `20260131T083000000Z`. */
export function outageId(startedAt: Instant): string {
  return rfc3339(startedAt).replace(/[-:.]/g, '')
}

/** Whether the text has the form of an id. */
export function isOutageId(text: string): boolean {
  return /^\d{8}T\d{9}Z$/.test(text)
}
