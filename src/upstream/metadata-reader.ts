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
import { CodingError, type ResponseHeaders, textOf } from './metadata-text.js'
import { TlsCheck } from './tls-check.js'

/** A complete response of the upstream to a metadata request. */
export type MetadataResponse = {
  readonly statusCode: number
  /** The request headers, by lower-case name. */
  readonly sent: Readonly<Record<string, string>>
  /** The response headers as undici returns them, by lower-case name. */
  readonly headers: ResponseHeaders
  readonly body: Buffer
}

/** Result of one metadata request: the reading, and the response if a complete one arrived. */
export type MetadataResult = {
  /** When the request was sent. The reading is older if the response came from a cache. */
  readonly at: Instant
  readonly receivedAt: Instant
  /** What the metadata says about the fiber. Reported to `observe`, unless `notCounted` is set. */
  readonly reading: Reading
  /** Why the result says nothing about the upstream. `reading` then states what happened instead. */
  readonly notCounted: NotCounted | undefined
  readonly response: MetadataResponse | undefined
  /** Why no response arrived. Set only if a client's own request would have failed in the same way. */
  readonly failure: UpstreamFailure | undefined
  /** How long the upstream asks the prober to wait (429 with `Retry-After`). */
  readonly retryAfterMs: number | undefined
}

/** Dependencies of a `MetadataReader`. */
export type MetadataOptions = {
  readonly dispatcher: Dispatcher
  /** The metadata route; credentials in it are sent as basic authentication. */
  readonly url: URL
  /** Called for each request, so that the settings can be changed while running. */
  readonly settings: () => { readonly timeoutMs: number; readonly readyWhen: readonly Predicate[] }
  /** Additional request headers, by lower-case name. */
  readonly headers?: () => Readonly<Record<string, string>>
  readonly clock: Clock
  /** Called once per request with its reading, however many callers share the request. */
  readonly observe: (reading: Reading, durationMs: number) => void
  /** Called for each request whose result is not counted as a reading. */
  readonly onNotCounted?: (why: NotCounted) => void
}

/** The URL of the metadata: `path` below the upstream's own path. */
export function metadataUrl(upstream: string, path: string): URL {
  return new URL(upstream.replace(/\/+$/, '') + path)
}

/** The largest metadata response that is read; the real one has 180 bytes. */
const MAX_RESPONSE_BYTES = 1_048_576

/**
 * If the event loop was blocked for this long, and for at least the request timeout, the connection may be gone. A
 * shorter stall only makes the request take longer.
 */
const STALL_MS = 500

/** How many consecutive requests may be discarded because of a stall. After that, a failure counts again. */
const MAX_STALLED = 5

/** The largest age that a cache reports (RFC 9111, 1.2.2). */
const MAX_AGE_S = 2 ** 31

/**
 * Reads the upstream's metadata, one request at a time: callers that ask while a request is in flight share its result.
 * A failure is a reading like any other, never an exception.
 */
export class MetadataReader {
  readonly #options: MetadataOptions
  readonly #cache: LRUCache<'metadata', MetadataResult, ReadingSource>
  readonly #tlsCheck: TlsCheck
  #inFlight: AbortController | undefined
  /** Whether a probe started the request in flight or joined it. Its reading then has the source `probe`. */
  #isProbe = false
  #isClosed = false
  /** Consecutive requests discarded because the event loop was blocked. */
  #stalled = 0

  constructor(options: MetadataOptions) {
    this.#options = options
    this.#tlsCheck = new TlsCheck(options.url, options.clock)
    this.#cache = new LRUCache({ max: 1, fetchMethod: (_key, _stale, { context }) => this.#read(context) })
  }

  /** Requests the metadata on behalf of `source`, or joins the request in flight. */
  async read(source: ReadingSource): Promise<MetadataResult> {
    if (source === 'probe') this.#isProbe = true
    const result = await this.#cache.fetch('metadata', { forceRefresh: true, context: source })
    if (result === undefined)
      throw new Error('the metadata cache lost a result; this is a bug in focus-breaker')
    return result
  }

  /** The last completed result; undefined before the first. */
  last(): MetadataResult | undefined {
    return this.#cache.get('metadata', { allowStale: false })
  }

  /** Aborts the request in flight. No further readings are reported. */
  close(): void {
    this.#isClosed = true
    this.#inFlight?.abort(new Error('closed'))
  }

  async #read(source: ReadingSource): Promise<MetadataResult> {
    const { clock, observe, onNotCounted } = this.#options
    this.#isProbe = source === 'probe'
    const at = clock()
    const { finding, notCounted, response, failure, retryAfterMs } = await this.#find()
    const receivedAt = clock()
    const askedBy = this.#isProbe ? 'probe' : source
    const reading: Reading = { at: Math.max(0, at - ageMsOf(response?.headers)), source: askedBy, ...finding }
    if (!this.#isClosed) {
      if (notCounted === undefined) observe(reading, receivedAt - at)
      else onNotCounted?.(notCounted)
    }
    return { at, receivedAt, reading, notCounted, response, failure, retryAfterMs }
  }

  async #find(): Promise<Found> {
    const { timeoutMs } = this.#options.settings()
    // One timer for the whole response: undici's own timeouts restart with each chunk.
    const abort = new AbortController()
    const timer = new AwakeTimer(timeoutMs, () => abort.abort(new ReadTimeoutError()))
    this.#inFlight = abort
    const mayBeStalled = () =>
      timer.longestStallMs >= Math.max(STALL_MS, timeoutMs) && this.#stalled < MAX_STALLED
    try {
      const found = await this.#ask(abort.signal)
      // The upstream did not receive the request in time.
      if (found.response?.statusCode === 408 && mayBeStalled()) return this.#lost()
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
      if (error instanceof ReadTimeoutError) {
        return { finding: unreachable(`no complete response within ${timeoutMs} ms`) }
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
    return { finding: unreachable('focus-breaker was stalled during the probe'), notCounted: 'stalled' }
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
      return { finding: unreachable(`returned ${statusCode}, which is not a valid HTTP status`) }
    }
    const location = locationIn(headers, url)
    const chunks: Buffer[] = []
    let length = 0
    for await (const chunk of body) {
      length += chunk.length
      // Leaving the loop destroys the body and thereby the connection.
      if (length > MAX_RESPONSE_BYTES) {
        const status = statusCode === 200 ? 'more than 1 MiB' : `${statusCode}, expected 200`
        return { finding: unreachable(`returned ${status}${location}`) }
      }
      chunks.push(chunk)
    }
    const response = { statusCode, sent, headers, body: Buffer.concat(chunks) }
    if (statusCode !== 200) {
      const retryAfterMs = statusCode === 429 ? retryAfterMsOf(headers) : undefined
      const wait = retryAfterMs === undefined ? '' : `; Retry-After: ${Math.ceil(retryAfterMs / 1000)} s`
      const isTls = statusCode === 400 && ASKS_FOR_TLS.test(response.body.toString('latin1'))
      const why = isTls ? `: ${SPEAKS_TLS.words}` : ''
      const finding = unreachable(`returned ${statusCode}, expected 200${why}${location}${wait}`)
      return { finding, response, ...(retryAfterMs !== undefined && { retryAfterMs }) }
    }
    const finding = await this.#judge(response, readyWhen)
    const isUnread = finding.kind === 'unreachable' && location !== ''
    return { finding: isUnread ? unreachable(finding.problem + location) : finding, response }
  }

  async #judge({ body, headers }: MetadataResponse, readyWhen: readonly Predicate[]): Promise<Finding> {
    try {
      const { text, readAs } = await textOf(body, headers, MAX_RESPONSE_BYTES)
      return judgeText(text, readyWhen, { readAs, path: this.#options.url.pathname })
    } catch (error) {
      if (error instanceof CodingError) return unreachable(error.problem)
      throw error
    }
  }
}

/** What nginx, Apache and Go return for plain HTTP on a TLS port. */
const ASKS_FOR_TLS =
  /plain HTTP (request was sent )?to (an SSL-enabled|HTTPS)|HTTP request to an HTTPS server/i

type Found = {
  readonly finding: Finding
  readonly notCounted?: NotCounted
  readonly response?: MetadataResponse
  readonly failure?: UpstreamFailure
  readonly retryAfterMs?: number
}

/** A metadata request exceeded its timeout. */
class ReadTimeoutError extends Error {
  override readonly name = 'ReadTimeoutError'
}

/** Where a document comes from; used in error messages. */
type Origin = { readonly readAs: string; readonly path: string }

/** What a metadata document, as text, says about the fiber. */
export function judgeText(text: string, readyWhen: readonly Predicate[], origin?: Origin): Finding {
  const parsed = parseLoosely(text)
  if (!parsed.ok) {
    const where = origin === undefined ? '' : `: ${origin.readAs}, error at position ${parsed.position}`
    return unreachable(`returned something that is not JSON${where}`)
  }
  const judgement = judge(parsed.value, readyWhen)
  if (judgement.kind === 'unreadable') return unreachable(judgement.problem)
  if (!looksLikeMetadata(parsed.value, readyWhen)) {
    const fields = [...new Set(readyWhen.map(({ field }) => field))].join(', ')
    const asked = origin === undefined ? '' : `; requested path: ${origin.path}`
    return unreachable(
      `returned JSON that does not look like focus-server's metadata: none of the fields ${fields}${asked}`,
    )
  }
  return judgement
}

function unreachable(problem: string): Finding {
  return { kind: 'unreachable', problem }
}

/** The age of a response from a cache (RFC 9111, 5.1); 0 without an `Age` header. */
export function ageMsOf(headers: ResponseHeaders | undefined): number {
  const [first = ''] = [headers?.age ?? []].flat()
  const [seconds = ''] = first.split(',')
  return /^\s*\d+\s*$/.test(seconds) ? Math.min(Number(seconds), MAX_AGE_S) * 1000 : 0
}

/** How long the upstream asks to wait. A date is interpreted by the upstream's own clock. */
function retryAfterMsOf(headers: ResponseHeaders): number | undefined {
  const [value] = [headers['retry-after'] ?? []].flat()
  const [date] = [headers.date ?? []].flat()
  return value === undefined ? undefined : parseRetryAfter(value, Date.now(), date)
}

/**
 * The redirect target, as a suffix for a message: it often reveals a login page. For a target on the upstream only the
 * path is shown, and never a part that may hold a secret.
 */
function locationIn({ location }: ResponseHeaders, url: URL): string {
  const [text] = [location ?? []].flat()
  if (text === undefined || !URL.canParse(text, url.href)) return ''
  const { origin, pathname } = new URL(text, url.href)
  return `; Location: ${`${origin === url.origin || origin === 'null' ? '' : origin}${pathname}`.slice(0, 200)}`
}
