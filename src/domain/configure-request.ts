/**
 * Whether a `POST /configure` with this body replays stored data: both times are given, and focus-server accepts each of them.
 *
 * Anything else counts as a live job, including a body that cannot be read, because live jobs need the fiber. The rule
 * is at least as strict as focus-server's own: there, `0` or `false` may count as "not given", and a value that fails
 * validation does not start a replay.
 */
export function isHistoric(body: string): boolean {
  let job: unknown
  try {
    job = JSON.parse(body)
  } catch {
    return false
  }
  return isTime(job, 'start_time') && isTime(job, 'end_time')
}

/** Seconds since the epoch: a whole number above 0, or a string of digits, which focus-server's validation converts. */
function isTime(job: unknown, field: 'start_time' | 'end_time'): boolean {
  if (typeof job !== 'object' || job === null || Array.isArray(job) || !Object.hasOwn(job, field))
    return false
  const value: unknown = Reflect.get(job, field)
  const time = typeof value === 'string' && /^\d+$/.test(value) ? Number(value) : value
  return typeof time === 'number' && Number.isSafeInteger(time) && time > 0
}

/**
 * The fields that focus-server names as missing when it rejects a configure request because the fiber is missing, or
 * undefined for any other response.
 *
 * The search is for the text, not for a JSON shape: it appears in `detail`, in `error`, and after other words.
 */
export function missingFiberFields(response: string): readonly string[] | undefined {
  const named =
    /missing required fiber metadata fields?:\s*(\w+(?:\.\w+)*(?:\s*,\s*\w+(?:\.\w+)*){0,31})/i.exec(
      response,
    )?.[1]
  return named?.split(',').map(field => field.trim().slice(0, 64))
}
