import type { TestContext } from 'node:test'
import { DEFAULT_READY_WHEN } from '../../src/domain/fiber.js'
import { steadyClock } from '../../src/upstream/clock.js'
import { upstreamAgent } from '../../src/upstream/dispatcher.js'
import { MetadataReader } from '../../src/upstream/metadata.js'

/** A reader of the metadata of this upstream, over a real connection, for the length of a test. */
export function readerOf(
  t: TestContext,
  upstream: string,
  options: { readonly timeoutMs?: number; readonly clock?: () => number } = {},
): MetadataReader {
  const timeouts = { connectTimeoutMs: 2000, headersTimeoutMs: 60_000, bodyTimeoutMs: 60_000 }
  const agent = upstreamAgent({ url: upstream, tls: { insecureSkipVerify: false }, ...timeouts }, 1)
  t.after(() => agent.destroy())
  return new MetadataReader({
    dispatcher: agent,
    url: new URL(`${upstream}/live_metadata`),
    timeoutMs: options.timeoutMs ?? 5000,
    readyWhen: DEFAULT_READY_WHEN,
    clock: options.clock ?? steadyClock,
  })
}
