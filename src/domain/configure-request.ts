/**
 * Whether a `POST /configure` with this body replays stored data: both times given, and not null. Anything
 * else is a live job, and so is a body that cannot be read, because a live job is what needs the fiber.
 */
export function isHistoric(body: string): boolean {
  let job: unknown
  try {
    job = JSON.parse(body)
  } catch {
    return false
  }
  return isGiven(job, 'start_time') && isGiven(job, 'end_time')
}

function isGiven(job: unknown, field: 'start_time' | 'end_time'): boolean {
  if (typeof job !== 'object' || job === null || !(field in job)) return false
  const value: unknown = Reflect.get(job, field)
  return value !== null && value !== undefined
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
