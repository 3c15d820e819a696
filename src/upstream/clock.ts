import { performance } from 'node:perf_hooks'
import type { Instant } from '../domain/time.js'

/** Where the shell takes `now` from. */
export type Clock = () => Instant

/**
 * The time of day at the start of the process, counted on by a clock that never steps.
 *
 * When the wall clock is set, a span measured with this one stays right, and a reading never looks older
 * than the one before it; the times shown keep the offset that the process started with.
 */
export const steadyClock: Clock = () => ORIGIN + performance.now()

/** Read once: the getter costs more than the clock. */
const ORIGIN = performance.timeOrigin
