import type { Metadata } from './fiber.js'
import type { Instant } from './time.js'

/** Where a reading came from: our own probe, a guarded request's answer, or metadata a client fetched. */
export type Source = 'probe' | 'configure' | 'client'

/**
 * What one look at the upstream found.
 *
 * `at` is when the look began, not when it ended: a slow answer is as old as its question, and so an
 * answer that was overtaken by a newer reading can be told by its time. Only a configure's own word is of
 * the moment of its answer; that it is not overtaken is told otherwise (`Breaker.run`).
 */
export type Reading = { readonly at: Instant; readonly source: Source } & Finding

/** The three things that a look can find. `problem` says for people why nothing could be read. */
export type Finding =
  | { readonly kind: 'ready'; readonly metadata: Metadata }
  | { readonly kind: 'waiting'; readonly metadata: Metadata; readonly missing: readonly string[] }
  | { readonly kind: 'unreachable'; readonly problem: string }
