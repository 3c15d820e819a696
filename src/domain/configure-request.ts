/**
 * Whether a `POST /configure` with this body replays stored data: both times given, and each a time that focus-server takes.
 *
 * Anything else is a live job, and so is a body that cannot be read, because a live job is what needs the fiber. The rule is
 * stricter than focus-server's own, never weaker: a `0` or `false` may count as "not given" there, and a value that fails
 * its validation starts no replay.
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

/** Seconds since the epoch, or digits: a whole number above 0, also as text, which focus-server's validation takes for one. */
function isTime(job: unknown, field: 'start_time' | 'end_time'): boolean {
  if (typeof job !== 'object' || job === null || Array.isArray(job) || !Object.hasOwn(job, field))
    return false
  const value: unknown = Reflect.get(job, field)
  const time = typeof value === 'string' && /^\d+$/.test(value) ? Number(value) : value
  return typeof time === 'number' && Number.isSafeInteger(time) && time > 0
}

/**
 * The fields that focus-server names as missing when it fails a configure for want of a fiber, or undefined
 * for any other answer.
 *
 * The text is looked for, not a shape: it comes as `detail`, as `error`, and behind other words.
 */
export function missingFiberFields(answer: string): readonly string[] | undefined {
  const named =
    /missing required fiber metadata fields?:\s*(\w+(?:\.\w+)*(?:\s*,\s*\w+(?:\.\w+)*){0,31})/i.exec(
      answer,
    )?.[1]
  return named?.split(',').map(field => field.trim().slice(0, 64))
}
