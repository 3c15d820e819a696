import { performance } from 'node:perf_hooks'
import type { Instant } from '../domain/time.js'

/** Returns the current time. */
export type Clock = () => Instant

/**
 * The time of day at the start of the process, advanced by a clock that never jumps.
 *
 * If the wall clock is changed, durations measured with this clock stay correct, and a reading never appears older than
 * the one before it. Displayed times keep the offset that the process started with.
 */
export const steadyClock: Clock = () => ORIGIN + performance.now()

/** Read once, because the getter costs more than the clock. */
const ORIGIN = performance.timeOrigin
