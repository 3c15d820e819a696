// Numbers and times in the browser's own format. Words are in messages.js.

export const { format: count } = new Intl.NumberFormat()
export const { format: clock } = new Intl.DateTimeFormat(undefined, { timeStyle: 'short' })
export const { format: clockWithSeconds } = new Intl.DateTimeFormat(undefined, { timeStyle: 'medium' })
export const { format: dayAndClock } = new Intl.DateTimeFormat(undefined, {
  month: 'short',
  day: 'numeric',
  hour: 'numeric',
  minute: '2-digit',
})
const { format: dateAndClock } = new Intl.DateTimeFormat(undefined, {
  dateStyle: 'medium',
  timeStyle: 'short',
})
const { format: fullWithZone } = new Intl.DateTimeFormat(undefined, {
  year: 'numeric',
  month: 'short',
  day: 'numeric',
  hour: 'numeric',
  minute: '2-digit',
  second: '2-digit',
  timeZoneName: 'short',
})
const { format: dateAndSeconds } = new Intl.DateTimeFormat(undefined, {
  dateStyle: 'medium',
  timeStyle: 'medium',
})
export const { timeZone } = new Intl.DateTimeFormat().resolvedOptions()

/**
 * As much of a time as distinguishes it: the clock for today, the day as well within this year.
 *
 * @param {number} at
 * @param {number} now
 * @returns {string}
 */
export const moment = (at, now) => {
  const [then, today] = [new Date(at), new Date(now)]
  if (then.toDateString() === today.toDateString()) return clock(at)
  return then.getFullYear() === today.getFullYear() ? dayAndClock(at) : dateAndClock(at)
}

/**
 * A time to the second: the clock for today, else the date as well.
 *
 * @param {number} at
 * @param {number} now
 * @returns {string}
 */
export const momentWithSeconds = (at, now) =>
  new Date(at).toDateString() === new Date(now).toDateString() ? clockWithSeconds(at) : dateAndSeconds(at)

/**
 * A time in full: in the browser's zone, which it names, and as the JSON has it.
 *
 * @param {string} iso
 * @returns {string}
 */
export const fullTime = iso => `${fullWithZone(Date.parse(iso))} = ${iso}`
