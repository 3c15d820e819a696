import type { Metadata } from './fiber.js'
import type { Instant } from './time.js'
import type { ReadingSource } from './vocabulary.js'

/**
 * What one probe, or another response of the upstream, shows about the fiber.
 *
 * `at` is when the request was sent, not when its response arrived, so that a slow response never outranks a newer
 * reading. A reading from a response to configure is dated by the response; `Breaker.admit` drops it if the circuit has
 * changed since the request was sent.
 */
export type Reading = { readonly at: Instant; readonly source: ReadingSource } & Finding

/** The result of a reading. `problem` describes in words why the metadata could not be read. */
export type Finding =
  | { readonly kind: 'ready'; readonly metadata: Metadata }
  | { readonly kind: 'waiting'; readonly metadata: Metadata; readonly missing: readonly string[] }
  | { readonly kind: 'unreachable'; readonly problem: string }
