import Type from 'typebox'
import { Value } from 'typebox/value'
import { type Claim, MAX_NOTICES, type Notices } from '../domain/notices.js'

/** The Redis commands that are needed. They fail if Redis does not respond in time. */
export type Commands = {
  readonly get: (key: string) => Promise<string | null>
  readonly eval: (script: string, keyCount: number, ...rest: (string | number)[]) => Promise<unknown>
}

/** The options of the notifications of a group. */
export type GroupNoticesOptions = {
  /** Undefined while this replica cannot reach the others. */
  readonly redis: () => Commands | undefined
  /** The name of a key of the group. */
  readonly key: (suffix: string) => string
  /** Whether other replicas are present. */
  readonly hasOthers: () => boolean
  /** Identifies this process; a new one for each start. */
  readonly token: string
  /** How long a claim is valid if it is not renewed. */
  readonly claimMs?: number
}

/** Longer than the timeout of a delivery attempt. */
const CLAIM_MS = 10_000

/** How long a sent notification is remembered: longer than any delivery is retried. */
const DONE_MS = 172_800_000

/** The same for a notification that may recur unchanged: longer than a mounted file takes to change for all replicas. */
const DONE_SHORTLY_MS = 120_000

/** How long the outages of a group are remembered. */
const NOTICES_MS = 604_800_000

/** The interval and the duration of retries to record a sent notification while Redis does not respond. */
const FINISH_AGAIN_MS = 500
const FINISH_FOR_MS = 60_000

/** The number of attempts to apply a change when changes of other replicas come first. */
const ATTEMPTS = 10

/** A longer text is not a list of notices. */
const MAX_LENGTH = 65_536

const WON = -1
const DONE = -2

/**
 * A claim is the token and the time until which it is valid. KEYS: the claim. ARGV: the token, the duration in ms. Returns -1
 * if it is won, -2 if the notification is done, else the ms for which another replica holds the claim.
 */
const TAKE = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local held = redis.call('GET', KEYS[1])
if held == 'done' then return ${DONE} end
local token, ends = string.match(held or '', '^(%S+) (%d+)$')
if token and token ~= ARGV[1] and tonumber(ends) > now then return tonumber(ends) - now end
redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. (now + ARGV[2]), 'PX', ARGV[2])
return ${WON}
`

/** KEYS: the claim. ARGV: for how many ms it is remembered as done. */
const FINISH = `redis.call('SET', KEYS[1], 'done', 'PX', ARGV[1]) return 1`

/** KEYS: the claim. ARGV: the token. */
const RELEASE = `
local token = string.match(redis.call('GET', KEYS[1]) or '', '^(%S+) %d+$')
if token == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
`

/** KEYS: the notices. ARGV: the expected text, the new text, how long to keep it. Returns 1 if the text was as expected. */
const EXCHANGE = `
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
`

const Time = Type.Number()
const NoticesText = Type.Array(
  Type.Object({
    key: Time,
    endedAt: Type.Union([Time, Type.Null()]),
    seenAt: Time,
    openedAt: Type.Union([Time, Type.Null()]),
    isLasting: Type.Boolean(),
    isHeld: Type.Boolean(),
    isFound: Type.Boolean(),
  }),
  { maxItems: MAX_NOTICES },
)

/**
 * What the replicas of a group share so that each notification is sent once: which outages were reported, and
 * which replica sends which notification.
 *
 * A notification is claimed before it is sent, and marked as done afterwards. If a replica is killed, its claim expires, and
 * another replica sends the notification. A replica that keeps retrying renews its claim. Without Redis, every replica sends.
 */
export class GroupNotices {
  readonly #options: GroupNoticesOptions
  readonly #claimMs: number
  /** The claims of this process, which it renews. */
  readonly #renewals = new Map<string, NodeJS.Timeout>()
  /** Notifications that are done but could not be marked as such yet. */
  readonly #unwritten = new Map<string, NodeJS.Timeout>()
  #isClosed = false

  constructor(options: GroupNoticesOptions) {
    this.#options = options
    this.#claimMs = options.claimMs ?? CLAIM_MS
  }

  /** Whether this replica reaches the others. */
  get isReached(): boolean {
    return this.#options.redis() !== undefined
  }

  /** Whether there is another replica that sends what this one does not. */
  get hasOthers(): boolean {
    return this.isReached && this.#options.hasOthers()
  }

  /** Changes what the group has reported, and returns it; undefined if the others cannot be reached. */
  async exchange(change: (notices: Notices) => Notices): Promise<Notices | undefined> {
    const key = this.#options.key('notices')
    try {
      for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
        const redis = this.#options.redis()
        if (redis === undefined) return undefined
        const text = (await redis.get(key)) ?? ''
        const notices = parse(text)
        const next = change(notices)
        if (next === notices) return next
        if ((await redis.eval(EXCHANGE, 1, key, text, JSON.stringify(next), NOTICES_MS)) === 1) return next
      }
    } catch {
      // Problems with Redis are reported by the part that owns the connection.
    }
    return undefined
  }

  /** Takes or keeps the claim to send a notification. A claim that was won is renewed until it is finished or released. */
  async take(claim: string): Promise<Claim> {
    const key = this.#keyOf(claim)
    try {
      const reply = await this.#options.redis()?.eval(TAKE, 1, key, this.#options.token, this.#claimMs)
      if (typeof reply !== 'number') return { kind: 'unreached' }
      if (reply === WON) {
        this.#renew(claim)
        return { kind: 'won' }
      }
      this.#stopRenewing(claim)
      return reply === DONE ? { kind: 'done' } : { kind: 'taken', forMs: reply }
    } catch {
      return { kind: 'unreached' }
    }
  }

  /**
   * Marks the notification as sent or given up, so that no other replica sends it.
   *
   * @param mayRepeat whether the same claim may soon be used for another notification.
   */
  finish(claim: string, mayRepeat = false): void {
    this.#stopRenewing(claim)
    this.#write(claim, mayRepeat ? DONE_SHORTLY_MS : DONE_MS, FINISH_FOR_MS)
  }

  /** Releases all claims, so that another replica immediately sends what this one has not. */
  async close(): Promise<void> {
    this.#isClosed = true
    for (const timer of this.#unwritten.values()) clearTimeout(timer)
    const claims = [...this.#renewals.keys()]
    for (const claim of claims) this.#stopRenewing(claim)
    const { redis, token } = this.#options
    await Promise.allSettled(claims.map(claim => redis()?.eval(RELEASE, 1, this.#keyOf(claim), token)))
  }

  #write(claim: string, keptMs: number, triedForMs: number): void {
    this.#unwritten.delete(claim)
    const again = () => {
      if (this.#isClosed || triedForMs <= 0) return
      const next = () => this.#write(claim, keptMs, triedForMs - FINISH_AGAIN_MS)
      this.#unwritten.set(claim, setTimeout(next, FINISH_AGAIN_MS).unref())
    }
    const redis = this.#options.redis()
    if (redis === undefined) again()
    else redis.eval(FINISH, 1, this.#keyOf(claim), keptMs).catch(again)
  }

  #renew(claim: string): void {
    if (this.#isClosed || this.#renewals.has(claim)) return
    const timer = setInterval(() => void this.take(claim), this.#claimMs / 3).unref()
    this.#renewals.set(claim, timer)
  }

  #stopRenewing(claim: string): void {
    clearInterval(this.#renewals.get(claim))
    this.#renewals.delete(claim)
  }

  #keyOf(claim: string): string {
    return this.#options.key(`notice:${claim}`)
  }
}

/** Parses notices; malformed ones are discarded. */
function parse(text: string): Notices {
  if (text === '' || text.length > MAX_LENGTH) return []
  try {
    const value: unknown = JSON.parse(text)
    return Value.Check(NoticesText, value) ? value : []
  } catch {
    return []
  }
}
