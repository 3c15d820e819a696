import { LRUCache } from 'lru-cache'
import type { Dispatcher } from 'undici'
import { judge, type Predicate } from '../domain/fiber.js'
import type { Finding, Reading } from '../domain/reading.js'
import type { Instant } from '../domain/time.js'
import type { ReadingSource } from '../domain/vocabulary.js'
import type { Clock } from './clock.js'
import { credentialsOf } from './credentials.js'
import { failureOf, type UpstreamFailure } from './failure.js'

/** The upstream's answer, whole. */
export type MetadataAnswer = {
  readonly statusCode: number
  /** The headers that it was asked for with, by lower-case name. */
  readonly sent: Readonly<Record<string, string>>
  /** Names and values as undici gives them, by lower-case name. */
  readonly fields: Readonly<Record<string, string | string[] | undefined>>
  readonly body: Buffer
}

/** One look at the metadata: what it says of the fiber, and the answer itself when a whole one came. */
export type Look = {
  /** When it was asked for. */
  readonly at: Instant
  readonly answeredAt: Instant
  readonly reading: Reading
  readonly answer: MetadataAnswer | undefined
  /** Why no answer came, where a client that asked itself would have met the same. */
  readonly failure: UpstreamFailure | undefined
}

/** What a `MetadataReader` needs. */
export type MetadataOptions = {
  readonly dispatcher: Dispatcher
  /** The metadata route; credentials in it are sent as basic authentication. */
  readonly url: URL
  /** Read anew at each look, so that they can be changed while running. */
  readonly settings: () => { readonly timeoutMs: number; readonly readyWhen: readonly Predicate[] }
  readonly clock: Clock
  /** Takes the reading of each look, once, however many have joined it. */
  readonly observe: (reading: Reading, durationMs: number) => void
}

/** Where the metadata is: `path` below the upstream's own path. */
export function metadataUrl(upstream: string, path: string): URL {
  return new URL(upstream.replace(/\/+$/, '') + path)
}

/** The largest metadata answer that is read; the real one has 180 bytes. */
const MAX_ANSWER_BYTES = 1_048_576

/**
 * Reads the upstream's metadata, one request at a time: whoever asks while a request is under way gets its
 * answer. A failure is a reading like any other, never an exception.
 */
export class MetadataReader {
  readonly #options: MetadataOptions
  readonly #cache: LRUCache<'metadata', Look, ReadingSource>
  #underWay: AbortController | undefined
  /** Whether a probe began the request that is under way, or has joined it: its result is a probe's then. */
  #isProbe = false
  #isClosed = false

  constructor(options: MetadataOptions) {
    this.#options = options
    this.#cache = new LRUCache({ max: 1, fetchMethod: (_key, _stale, { context }) => this.#look(context) })
  }

  /** Looks at the upstream on behalf of `source`, or joins the look that is under way. */
  async read(source: ReadingSource): Promise<Look> {
    if (source === 'probe') this.#isProbe = true
    const look = await this.#cache.fetch('metadata', { forceRefresh: true, context: source })
    if (look === undefined)
      throw new Error('the metadata cache lost a look; this is a fault of focus-breaker')
    return look
  }

  /** The last look that has ended; undefined before the first. */
  last(): Look | undefined {
    return this.#cache.get('metadata', { allowStale: false })
  }

  /** Ends the look that is under way; nothing is observed any more. */
  close(): void {
    this.#isClosed = true
    this.#underWay?.abort(new Error('closed'))
  }

  async #look(source: ReadingSource): Promise<Look> {
    const { clock, observe } = this.#options
    this.#isProbe = source === 'probe'
    const at = clock()
    const { finding, answer, failure } = await this.#find()
    const answeredAt = clock()
    const reading: Reading = { at, source: this.#isProbe ? 'probe' : source, ...finding }
    if (!this.#isClosed) observe(reading, answeredAt - at)
    return { at, answeredAt, reading, answer, failure }
  }

  async #find(): Promise<Found> {
    const { url, dispatcher, settings } = this.#options
    const { timeoutMs, readyWhen } = settings()
    // One clock for the whole answer: undici's own timeouts begin anew with every piece of it.
    const abort = new AbortController()
    const timer = setTimeout(() => abort.abort(new LookTimeoutError()), timeoutMs)
    this.#underWay = abort
    const sent = { accept: 'application/json', 'user-agent': 'focus-breaker', ...credentialsOf(url) }
    try {
      const { statusCode, headers, body } = await dispatcher.request({
        origin: url.origin,
        path: url.pathname + url.search,
        method: 'GET',
        headers: sent,
        signal: abort.signal,
      })
      if (statusCode > 599) {
        await body.dump()
        return { finding: unreachable(`answered ${statusCode}, which is no status of HTTP`) }
      }
      const chunks: Buffer[] = []
      let length = 0
      for await (const chunk of body) {
        length += chunk.length
        // Leaving the loop destroys the body, and with it the connection.
        if (length > MAX_ANSWER_BYTES) {
          const status = statusCode === 200 ? 'more than 1 MiB' : `${statusCode}, expected 200`
          return { finding: unreachable(`answered ${status}`) }
        }
        chunks.push(chunk)
      }
      const answer = { statusCode, sent, fields: headers, body: Buffer.concat(chunks) }
      if (statusCode !== 200) return { finding: unreachable(`answered ${statusCode}, expected 200`), answer }
      return { finding: judgeText(answer.body.toString('utf8'), readyWhen), answer }
    } catch (error) {
      if (error instanceof LookTimeoutError) {
        return { finding: unreachable(`no complete answer within ${timeoutMs} ms`) }
      }
      const failure = failureOf(error)
      const isOurs = failure.kind === 'proxy_internal_error'
      const problem = isOurs && error instanceof Error ? error.message : failure.words
      return { finding: unreachable(problem), ...(!isOurs && { failure }) }
    } finally {
      clearTimeout(timer)
    }
  }
}

type Found = {
  readonly finding: Finding
  readonly answer?: MetadataAnswer
  readonly failure?: UpstreamFailure
}

/** A look took longer than it may. */
class LookTimeoutError extends Error {
  override readonly name = 'LookTimeoutError'
}

/** What a metadata document, as text, says of the fiber. */
export function judgeText(text: string, readyWhen: readonly Predicate[]): Finding {
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
