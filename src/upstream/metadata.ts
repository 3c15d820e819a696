import { LRUCache } from 'lru-cache'
import type { Dispatcher } from 'undici'
import { judge, type Predicate } from '../domain/fiber.js'
import type { Finding } from '../domain/reading.js'
import type { Instant } from '../domain/time.js'
import type { Clock } from './clock.js'
import { failureOf } from './failure.js'

/** One answer of the metadata route, or why there was none, and what it says about the fiber. */
export type Look = {
  /** When it was asked for. */
  readonly at: Instant
  /** From asking to the end of the answer, or of the attempt. */
  readonly durationMs: number
  readonly finding: Finding
}

/** What a `MetadataReader` needs. */
export type MetadataOptions = {
  readonly dispatcher: Dispatcher
  /** The metadata route; credentials in it are sent as basic authentication. */
  readonly url: URL
  readonly timeoutMs: number
  readonly readyWhen: readonly Predicate[]
  readonly clock: Clock
}

/** The largest metadata answer that is read; the real one has 180 bytes. */
const MAX_ANSWER_BYTES = 1_048_576

/**
 * Reads the upstream's metadata, one request at a time: whoever asks while a request is under way gets its
 * answer. A failure is a finding like any other, never an exception.
 */
export class MetadataReader {
  readonly #options: MetadataOptions
  readonly #cache: LRUCache<'metadata', Look, undefined>

  constructor(options: MetadataOptions) {
    this.#options = options
    this.#cache = new LRUCache({ max: 1, fetchMethod: () => this.#look() })
  }

  /** Looks at the upstream, or joins the look that is under way. */
  async read(): Promise<Look> {
    const look = await this.#cache.fetch('metadata', { forceRefresh: true })
    if (look === undefined)
      throw new Error('the metadata cache lost a look; this is a fault of focus-breaker')
    return look
  }

  async #look(): Promise<Look> {
    const at = this.#options.clock()
    const finding = await this.#find()
    return { at, durationMs: this.#options.clock() - at, finding }
  }

  async #find(): Promise<Finding> {
    const { url, timeoutMs, dispatcher, readyWhen } = this.#options
    try {
      const answer = await dispatcher.request({
        origin: url.origin,
        path: url.pathname + url.search,
        method: 'GET',
        headers: { accept: 'application/json', 'user-agent': 'focus-breaker', ...authorization(url) },
        // One clock for the whole answer: undici's own timeouts begin anew with every piece of it.
        signal: AbortSignal.timeout(timeoutMs),
      })
      if (answer.statusCode !== 200) {
        await answer.body.dump()
        return unreachable(`answered ${answer.statusCode}, expected 200`)
      }
      const chunks: Buffer[] = []
      let length = 0
      for await (const chunk of answer.body) {
        length += chunk.length
        // Leaving the loop destroys the body, and with it the connection.
        if (length > MAX_ANSWER_BYTES) return unreachable('answered more than 1 MiB')
        chunks.push(chunk)
      }
      return judgeText(Buffer.concat(chunks).toString('utf8'), readyWhen)
    } catch (error) {
      if (error instanceof DOMException && error.name === 'TimeoutError') {
        return unreachable(`no complete answer within ${timeoutMs} ms`)
      }
      const { kind, words } = failureOf(error)
      return unreachable(kind === 'proxy_internal_error' && error instanceof Error ? error.message : words)
    }
  }
}

function judgeText(text: string, readyWhen: readonly Predicate[]): Finding {
  let document: unknown
  try {
    document = JSON.parse(text)
  } catch {
    return unreachable('answered something that is not JSON')
  }
  const judgement = judge(document, readyWhen)
  return judgement.kind === 'unreadable' ? unreachable(judgement.problem) : judgement
}

function unreachable(problem: string): Finding {
  return { kind: 'unreachable', problem }
}

function authorization(url: URL): { readonly authorization?: string } {
  if (url.username === '' && url.password === '') return {}
  const credentials = `${decodeURIComponent(url.username)}:${decodeURIComponent(url.password)}`
  return { authorization: `Basic ${Buffer.from(credentials).toString('base64')}` }
}
