import type { TestContext } from 'node:test'
import { DEFAULT_READY_WHEN } from '../../src/domain/fiber.js'
import type { Reading } from '../../src/domain/reading.js'
import type { ReadingSource } from '../../src/domain/vocabulary.js'
import { FreshConnections } from '../../src/upstream/agent.js'
import { steadyClock } from '../../src/upstream/clock.js'
import {
  type MetadataOptions,
  MetadataReader,
  type MetadataResult,
} from '../../src/upstream/metadata-reader.js'

/** A reading as it was observed, and how long its request took. */
export type Observed = Reading & { readonly durationMs: number }

type Options = { readonly timeoutMs?: number; readonly clock?: () => number } & Partial<
  Pick<MetadataOptions, 'settings' | 'onNotCounted'>
>

/** A reader of this upstream's metadata, over a real connection, for the duration of a test. */
export function readerOf(t: TestContext, upstream: string, options: Options = {}) {
  const timeouts = {
    connectTimeoutMs: 2000,
    headersTimeoutMs: 60_000,
    bodyTimeoutMs: 60_000,
    maxHeaderBytes: 16_384,
  }
  const agent = new FreshConnections({ url: upstream, tls: { insecureSkipVerify: false }, ...timeouts })
  t.after(() => agent.cut())
  const observed: Observed[] = []
  const { timeoutMs = 5000, clock = steadyClock } = options
  const reader = new MetadataReader({
    dispatcher: agent,
    url: new URL(`${upstream}/live_metadata`),
    settings: options.settings ?? (() => ({ timeoutMs, readyWhen: DEFAULT_READY_WHEN })),
    clock,
    ...(options.onNotCounted !== undefined && { onNotCounted: options.onNotCounted }),
    observe: (reading, durationMs) => observed.push({ ...reading, durationMs }),
  })
  return {
    reader,
    /** What was observed, in order. */
    observed,
    /** Reads the metadata once. The finding is the reading without its time and source. */
    read: async (source: ReadingSource = 'probe') => {
      const result = await reader.read(source)
      return { result, finding: findingOf(result), durationMs: result.receivedAt - result.at }
    },
  }
}

/** A reading without its time and source. */
export function findingOf({ reading }: MetadataResult) {
  const { at, source, ...finding } = reading
  return finding
}
