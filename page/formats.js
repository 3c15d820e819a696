/**
 * Numbers, times and durations as a language writes them. Words are in the catalogues.
 *
 * A language without a region (`he`) names the units; a locale (`he-IL`, from the browser) writes dates and numbers, so
 * a visitor from the United States sees AM and PM.
 *
 * @typedef {ReturnType<typeof formatsOf>} Formats
 */

const MINUTE_S = 60
const HOUR_S = 3600
const DAY_S = 86_400
/** Below this, a duration shows seconds next to minutes. */
const SHOWS_SECONDS_S = 600

/**
 * @param {string} language
 * @param {string} locale
 * @param {string} [timeZone] the browser's by default
 */
export const formatsOf = (language, locale, timeZone) => {
  const clockTime = /** @type {const} */ ({ hour: '2-digit', minute: '2-digit' })
  const clockTimeWithSeconds = /** @type {const} */ ({ ...clockTime, second: '2-digit' })
  const dayOfYear = /** @type {const} */ ({ day: 'numeric', month: 'short' })
  const date = /** @type {const} */ ({ ...dayOfYear, year: 'numeric' })
  /** @type {(options: Intl.DateTimeFormatOptions) => (at: number) => string} */
  const timeFormat = options => new Intl.DateTimeFormat(locale, { timeZone, ...options }).format
  /** @type {(options: Intl.DateTimeFormatOptions) => (at: number) => string} */
  const utcFormat = options => timeFormat({ ...options, timeZone: 'UTC' })

  const { format: count } = new Intl.NumberFormat(locale)
  const { format: percent } = new Intl.NumberFormat(locale, { style: 'percent', maximumFractionDigits: 2 })
  const clock = timeFormat(clockTime)
  const clockWithSeconds = timeFormat(clockTimeWithSeconds)
  const dayAndClock = timeFormat({ ...dayOfYear, ...clockTime })
  const dateAndClock = timeFormat({ ...date, ...clockTime })
  const dateAndSeconds = timeFormat({ ...date, ...clockTimeWithSeconds })
  const fullWithZone = timeFormat({ ...date, ...clockTimeWithSeconds, timeZoneName: 'short' })
  const yearOf = timeFormat({ year: 'numeric' })
  const dayOf = timeFormat({ dateStyle: 'short' })

  /** @param {string} unit */
  const unitFormat = unit =>
    new Intl.NumberFormat(language, { style: 'unit', unit, unitDisplay: 'short' }).format
  const seconds = unitFormat('second')
  const minutes = unitFormat('minute')
  const hours = unitFormat('hour')
  const days = unitFormat('day')
  const units = new Intl.ListFormat(language, { type: 'unit', style: 'narrow' })
  const plural = new Intl.PluralRules(language)

  /** @type {(large: string, small: string | undefined) => string} */
  const two = (large, small) => (small === undefined ? large : units.format([large, small]))

  return {
    count,
    seconds,
    clock,
    clockWithSeconds,
    dayAndClock,
    timeZone: new Intl.DateTimeFormat(locale, { timeZone }).resolvedOptions().timeZone,

    /** A fraction of the time, rounded down: 100 % means all of the time. @param {number} part */
    percent: part => percent(Math.floor(part * 10_000) / 10_000),

    /** A duration in at most two units. @param {number} durationMs */
    duration: durationMs => {
      const all = Math.max(0, Math.round(durationMs / 1000))
      if (all < MINUTE_S) return seconds(all)
      const [inMinute, inHour, inDay] = [all % MINUTE_S, Math.floor((all % HOUR_S) / MINUTE_S), all % DAY_S]
      if (all < HOUR_S) {
        const isShort = all < SHOWS_SECONDS_S && inMinute > 0
        return two(minutes(inHour), isShort ? seconds(inMinute) : undefined)
      }
      const hour = Math.floor(inDay / HOUR_S)
      if (all < DAY_S) return two(hours(hour), inHour > 0 ? minutes(inHour) : undefined)
      return two(days(Math.floor(all / DAY_S)), hour > 0 ? hours(hour) : undefined)
    },

    /**
     * The form of a sentence for a number. `#` in it becomes the number. A form that a language does not have may be
     * absent, and so may one that needs no sentence of its own.
     *
     * @type {(value: number, forms: Partial<Record<Intl.LDMLPluralRule, string>> & { other: string }) => string}
     */
    plural: (value, forms) => (forms[plural.select(value)] ?? forms.other).replace('#', count(value)),

    /** As much of a time as identifies it: the clock for today, the day as well within this year. @type {(at: number, now: number) => string} */
    moment: (at, now) => {
      if (dayOf(at) === dayOf(now)) return clock(at)
      return yearOf(at) === yearOf(now) ? dayAndClock(at) : dateAndClock(at)
    },

    /** A time to the second: the clock for today, otherwise the date as well. @type {(at: number, now: number) => string} */
    momentWithSeconds: (at, now) => (dayOf(at) === dayOf(now) ? clockWithSeconds(at) : dateAndSeconds(at)),

    /** A time in full: in the browser's time zone, which it names, and as in the JSON. @param {string} iso */
    fullTime: iso => `${fullWithZone(Date.parse(iso))} = ${iso}`,

    /** The report counts by hours and days of UTC. */
    utc: {
      dateAndClock: utcFormat({ ...date, ...clockTime }),
      weekday: utcFormat({ weekday: 'short', ...dayOfYear }),
      clock: utcFormat(clockTime),
      dayAndClock: utcFormat({ ...dayOfYear, ...clockTime }),
    },
  }
}
