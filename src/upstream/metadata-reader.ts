import { LRUCache } from 'lru-cache'
import type { Dispatcher } from 'undici'
import { judge, looksLikeMetadata, type Predicate } from '../domain/fiber.js'
import { parseLoosely } from '../domain/loose-json.js'
import type { Finding, Reading } from '../domain/reading.js'
import { parseRetryAfter } from '../domain/retry-after.js'
import type { Instant } from '../domain/time.js'
import type { NotCounted, ReadingSource } from '../domain/vocabulary.js'
import { AwakeTimer } from './awake-timer.js'
import type { Clock } from './clock.js'
import { credentialsOf } from './credentials.js'
import { failureOf, isLocal, SPEAKS_TLS, type UpstreamFailure } from './failure.js'
import { CodingError, type Fields, textOf } from './metadata-text.js'
import { TlsCheck } from './tls-check.js'

/** The upstream's answer, whole. */
export type MetadataAnswer = {
  readonly statusCode: number
  /** The headers that it was asked for with, by lower-case name. */
  readonly sent: Readonly<Record<string, string>>
  /** Names and values as undici gives them, by lower-case name. */
  readonly fields: Fields
  readonly body: Buffer
}

/** One look at the metadata: what it says of the fiber, and the answer itself when a whole one came. */
export type Look = {
  /** When it was asked for. The reading is older, if its answer was kept by a cache on the way. */
  readonly at: Instant
  readonly answeredAt: Instant
  /** What it says. Observed, unless it is `notCounted`. */
  readonly reading: Reading
  /** Why the look says nothing about the upstream; then its reading says what happened instead. */
  readonly notCounted: NotCounted | undefined
  readonly answer: MetadataAnswer | undefined
  /** Why no answer came, where a client that asked itself would have met the same. */
  readonly failure: UpstreamFailure | undefined
  /** How long the upstream asks to be left alone (429 with `Retry-After`). */
  readonly retryAfterMs: number | undefined
}

/** What a `MetadataReader` needs. */
export type MetadataOptions = {
  readonly dispatcher: Dispatcher
  /** The metadata route; credentials in it are sent as basic authentication. */
  readonly url: URL
  /** Read again at each look, so that they can be changed while running. */
  readonly settings: () => { readonly timeoutMs: number; readonly readyWhen: readonly Predicate[] }
  /** Headers to send in addition, by lower-case name. */
  readonly headers?: () => Readonly<Record<string, string>>
  readonly clock: Clock
  /** Takes the reading of each look, once, however many have joined it. */
  readonly observe: (reading: Reading, durationMs: number) => void
  /** Hears of each look that is no reading. */
  readonly onNotCounted?: (why: NotCounted) => void
}

/** Where the metadata is: `path` below the upstream's own path. */
export function metadataUrl(upstream: string, path: string): URL {
  return new URL(upstream.replace(/\/+$/, '') + path)
}

/** The largest metadata answer that is read; the real one has 180 bytes. */
const MAX_ANSWER_BYTES = 1_048_576

/**
 * After a loop stood still for so long, and for at least the time of a look, the connection may be gone. A shorter
 * stall only makes the look longer.
 */
const STALL_MS = 500

/** So many looks in a row may be lost to a loop that stands still; then a failure counts as one again. */
const MAX_STALLED = 5

/** RFC 9111, 1.2.2: a cache that counts further stops here. */
const MAX_AGE_S = 2 ** 31

/**
 * Reads the upstream's metadata, one request at a time: whoever asks while a request is under way gets its
 * answer. A failure is a reading like any other, never an exception.
 */
export class MetadataReader {
  readonly #options: MetadataOptions
  readonly #cache: LRUCache<'metadata', Look, ReadingSource>
  readonly #tlsCheck: TlsCheck
  #underWay: AbortController | undefined
  /** Whether a probe began the request that is under way, or has joined it: its result is a probe's then. */
  #isProbe = false
  #isClosed = false
  /** Looks in a row that were lost to a loop that stood still. */
  #stalled = 0

  constructor(options: MetadataOptions) {
    this.#options = options
    this.#tlsCheck = new TlsCheck(options.url, options.clock)
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
    const { clock, observe, onNotCounted } = this.#options
    this.#isProbe = source === 'probe'
    const at = clock()
    const { finding, notCounted, answer, failure, retryAfterMs } = await this.#find()
    const answeredAt = clock()
    const askedBy = this.#isProbe ? 'probe' : source
    const reading: Reading = { at: Math.max(0, at - ageMsOf(answer?.fields)), source: askedBy, ...finding }
    if (!this.#isClosed) {
      if (notCounted === undefined) observe(reading, answeredAt - at)
      else onNotCounted?.(notCounted)
    }
    return { at, answeredAt, reading, notCounted, answer, failure, retryAfterMs }
  }

  async #find(): Promise<Found> {
    const { timeoutMs } = this.#options.settings()
    // One clock for the whole answer: undici's own timeouts begin again with every piece of it.
    const abort = new AbortController()
    const timer = new AwakeTimer(timeoutMs, () => abort.abort(new LookTimeoutError()))
    this.#underWay = abort
    const mayBeStalled = () =>
      timer.longestStallMs >= Math.max(STALL_MS, timeoutMs) && this.#stalled < MAX_STALLED
    try {
      const found = await this.#ask(abort.signal)
      // The upstream did not get the request in time.
      if (found.answer?.statusCode === 408 && mayBeStalled()) return this.#lost()
      this.#stalled = 0
      this.#tlsCheck.forget()
      return found
    } catch (error) {
      const failure = failureOf(error)
      if (isLocal(failure)) {
        return { finding: unreachable(failure.words), notCounted: 'exhausted', failure }
      }
      if (mayBeStalled()) return this.#lost()
      this.#stalled = 0
      if (error instanceof LookTimeoutError) {
        return { finding: unreachable(`no complete answer within ${timeoutMs} ms`) }
      }
      const isOurs = failure.kind === 'proxy_internal_error'
      const isTls = failure.kind === 'connection_terminated' && (await this.#tlsCheck.speaksTls())
      const { words } = isTls ? SPEAKS_TLS : failure
      return { finding: unreachable(words), ...(!isOurs && { failure }) }
    } finally {
      timer.stop()
    }
  }

  #lost(): Found {
    this.#stalled += 1
    return { finding: unreachable('focus-breaker stood still meanwhile'), notCounted: 'stalled' }
  }

  async #ask(signal: AbortSignal): Promise<Found> {
    const { url, dispatcher, settings, headers: ownHeaders } = this.#options
    const { readyWhen } = settings()
    const sent = {
      accept: 'application/json',
      'accept-encoding': 'identity',
      'cache-control': 'no-cache',
      'user-agent': 'focus-breaker',
      ...credentialsOf(url),
      ...ownHeaders?.(),
    }
    const { statusCode, headers, body } = await dispatcher.request({
      origin: url.origin,
      path: url.pathname + url.search,
      method: 'GET',
      headers: sent,
      signal,
    })
    if (statusCode > 599) {
      await body.dump()
      return { finding: unreachable(`answered ${statusCode}, which is no status of HTTP`) }
    }
    const location = locationIn(headers, url)
    const chunks: Buffer[] = []
    let length = 0
    for await (const chunk of body) {
      length += chunk.length
      // Leaving the loop destroys the body, and with it the connection.
      if (length > MAX_ANSWER_BYTES) {
        const status = statusCode === 200 ? 'more than 1 MiB' : `${statusCode}, expected 200`
        return { finding: unreachable(`answered ${status}${location}`) }
      }
      chunks.push(chunk)
    }
    const answer = { statusCode, sent, fields: headers, body: Buffer.concat(chunks) }
    if (statusCode !== 200) {
      const retryAfterMs = statusCode === 429 ? retryAfterMsOf(headers) : undefined
      const wait = retryAfterMs === undefined ? '' : `; Retry-After: ${Math.ceil(retryAfterMs / 1000)} s`
      const isTls = statusCode === 400 && ASKS_FOR_TLS.test(answer.body.toString('latin1'))
      const why = isTls ? `: ${SPEAKS_TLS.words}` : ''
      const finding = unreachable(`answered ${statusCode}, expected 200${why}${location}${wait}`)
      return { finding, answer, ...(retryAfterMs !== undefined && { retryAfterMs }) }
    }
    const finding = await this.#judge(answer, readyWhen)
    const isUnread = finding.kind === 'unreachable' && location !== ''
    return { finding: isUnread ? unreachable(finding.problem + location) : finding, answer }
  }

  async #judge({ body, fields }: MetadataAnswer, readyWhen: readonly Predicate[]): Promise<Finding> {
    try {
      const { text, readAs } = await textOf(body, fields, MAX_ANSWER_BYTES)
      return judgeText(text, readyWhen, { readAs, path: this.#options.url.pathname })
    } catch (error) {
      if (error instanceof CodingError) return unreachable(error.problem)
      throw error
    }
  }
}

/** What nginx, Apache and Go answer to plain HTTP on a port for TLS. */
const ASKS_FOR_TLS =
  /plain HTTP (request was sent )?to (an SSL-enabled|HTTPS)|HTTP request to an HTTPS server/i

type Found = {
  readonly finding: Finding
  readonly notCounted?: NotCounted
  readonly answer?: MetadataAnswer
  readonly failure?: UpstreamFailure
  readonly retryAfterMs?: number
}

/** A look took longer than it may. */
class LookTimeoutError extends Error {
  override readonly name = 'LookTimeoutError'
}

/** Where a document comes from, for the words about one that cannot be judged. */
type Origin = { readonly readAs: string; readonly path: string }

/** What a metadata document, as text, says of the fiber. */
export function judgeText(text: string, readyWhen: readonly Predicate[], origin?: Origin): Finding {
  const parsed = parseLoosely(text)
  if (!parsed.ok) {
    const where = origin === undefined ? '' : `: ${origin.readAs}, wrong at position ${parsed.position}`
    return unreachable(`answered something that is not JSON${where}`)
  }
  const judgement = judge(parsed.value, readyWhen)
  if (judgement.kind === 'unreadable') return unreachable(judgement.problem)
  if (!looksLikeMetadata(parsed.value, readyWhen)) {
    const fields = [...new Set(readyWhen.map(({ field }) => field))].join(', ')
    const asked = origin === undefined ? '' : `; ${origin.path} was asked`
    return unreachable(
      `answered JSON that does not look like focus-server's metadata: none of ${fields}${asked}`,
    )
  }
  return judgement
}

function unreachable(problem: string): Finding {
  return { kind: 'unreachable', problem }
}

/** How old an answer is that a cache on the way has kept (RFC 9111, 5.1); 0 where none says so. */
export function ageMsOf(fields: Fields | undefined): number {
  const [first = ''] = [fields?.age ?? []].flat()
  const [seconds = ''] = first.split(',')
  return /^\s*\d+\s*$/.test(seconds) ? Math.min(Number(seconds), MAX_AGE_S) * 1000 : 0
}

/** How long the upstream asks to wait; a date is by its own clock. */
function retryAfterMsOf(fields: Fields): number | undefined {
  const [value] = [fields['retry-after'] ?? []].flat()
  const [date] = [fields.date ?? []].flat()
  return value === undefined ? undefined : parseRetryAfter(value, Date.now(), date)
}

/**
 * Where the upstream sends its clients, as words to add: to a login page, say. Of an address on the upstream only the
 * path, and of any without what may be a secret.
 */
function locationIn({ location }: Fields, url: URL): string {
  const [text] = [location ?? []].flat()
  if (text === undefined || !URL.canParse(text, url.href)) return ''
  const { origin, pathname } = new URL(text, url.href)
  return `; Location: ${`${origin === url.origin || origin === 'null' ? '' : origin}${pathname}`.slice(0, 200)}`
}
