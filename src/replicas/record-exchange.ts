import type { Redis } from 'ioredis'
import type { Instant } from '../domain/time.js'
import { isObject } from '../outages/history-text.js'
import type { StreamEntry } from './link.js'
import { type RecordSet, RecordTable, SHARED_KINDS, type SharedKind } from './record-set.js'
import type { Replicas } from './replicas.js'
import { EXPIRE_MS } from './scripts.js'
import type { SharedStore } from './shared-store.js'
import { WIRE_VERSION } from './wire.js'

/** The options of the exchange. */
export type RecordExchangeOptions = {
  readonly replicas: Pick<Replicas, 'redis' | 'key' | 'follow' | 'origin' | 'name'>
  readonly store: SharedStore
  readonly clock: () => Instant
  /** Called when an outage has ended, here or at another replica, and when records of other replicas have arrived. */
  readonly onOutages?: (sets: readonly RecordSet[]) => void
  /** Called for each record, batch or set that was skipped because it was malformed, too large, or of another version. */
  readonly onSkipped?: () => void
}

/** How often changes are published. */
const PUBLISH_MS = 1000

/** How often the records that show the passing of time are published when nothing else has changed. */
const HEARTBEAT_MS = 10_000
const HEARTBEAT_KINDS: readonly SharedKind[] = ['alive', 'lasting']

/** The maximum records and characters of a batch; the last record may exceed the latter. The rest comes in later batches. */
const BATCH_RECORDS = 300
const BATCH_LENGTH = 65_536

/** The approximate number of batches in the stream. A replica that is further behind reads the whole set. */
const MAX_ENTRIES = 128

/** The maximum number of sets; the one that was published longest ago is forgotten. */
const MAX_SETS = 32

/** Limits of a set: the number of records, the length of a record, and the length of all records in characters. */
const MAX_RECORDS = 20_000
const MAX_RECORD_LENGTH = 262_144
const MAX_SET_LENGTH = 4_194_304

/** The maximum characters of each kind in a set, a fraction of those in the history file. The oldest records are omitted. */
const MAX_KIND_LENGTH: Readonly<Record<SharedKind, number>> = {
  outage: 786_432,
  unreachable: 131_072,
  detail: 524_288,
  hour: 786_432,
  day: 393_216,
  lasting: 16_384,
  override: 131_072,
  client: 262_144,
  run: 131_072,
  totals: 1024,
  state: 131_072,
  minute: 65_536,
  alive: 1024,
}

/** How often the sets are compared with those in Redis. */
const COMPARE_MS = 60_000

/** The delay before a failed operation is retried. */
const AGAIN_MS = 5000

/** The field of a set that contains its `Meta`. No kind has this name. */
const META = '.'

/** The replica of a set, the process that published it last, and the number of batches that this process has published. */
type Meta = { readonly replica: string; readonly origin: string; readonly count: number }

/** A batch in the stream. Without records, the whole set has to be read. */
type Batch = Omit<Meta, 'replica'> & {
  readonly id: string
  readonly records: readonly (readonly [field: string, record: unknown])[] | undefined
}

/** What is known about the set of another process. */
type Other = {
  meta: Meta
  table: RecordTable
  /** Batches that have arrived while the set is being read; undefined when it is not. */
  waiting: Batch[] | undefined
  /** When reading failed. */
  failedAt: number
  /** The meta in Redis when the sets were last compared. */
  compared: Meta | undefined
}

/**
 * Sends the records of this process to the other replicas, and receives theirs.
 *
 * Each process publishes a set of records: a hash in Redis that contains them, and batches of changes in a stream that all
 * replicas follow. Records are replaced as a whole, so a batch that arrives twice changes nothing. After a missed batch, the
 * hash is read.
 *
 * No request waits for it. Records that cannot be published are published later.
 */
export class RecordExchange {
  readonly #options: RecordExchangeOptions
  #timer: NodeJS.Timeout | undefined
  /** Counts how often this replica has joined or lost the others. */
  #generation = 0
  #isJoined = false

  /** The id under which this process has published. */
  #publishedId: string | undefined
  /** Whether the whole set has to be published. */
  #needsAll = true
  #count = 0
  /** The fields in the hash, oldest first, and their lengths. */
  readonly #published = new Map<SharedKind, Map<string, number>>()
  readonly #unpublished = new Map<SharedKind, Set<string>>()
  #isPublishing = false
  #publishedAt = Number.NEGATIVE_INFINITY
  /** After a failure, nothing is published before this time. */
  #publishAgainAt = 0

  readonly #others = new Map<string, Other>()
  readonly #toRead = new Set<string>()
  #isReading = false
  #comparedAt = 0
  #hasNewOutages = false
  #version = 0

  constructor(options: RecordExchangeOptions) {
    this.#options = options
  }

  /** Counts the changes in the sets of other replicas. */
  get version(): number {
    return this.#version
  }

  /** The sets to merge: that of this process and, while it is joined, those of all others. Call `update` first. */
  get sets(): readonly RecordSet[] {
    const { own } = this.#options.store
    if (!this.#takesPart) return [own]
    return [
      own,
      ...[...this.#others].flatMap(([id, { meta, table }]) =>
        meta.count === 0 || id === own.id ? [] : [{ id, replica: meta.replica, records: table.records }],
      ),
    ]
  }

  /** Updates the set of this process. */
  update(): void {
    const { store, clock } = this.#options
    for (const [kind, key, record] of store.changes(clock())) {
      const keys = this.#unpublished.get(kind) ?? new Set()
      this.#unpublished.set(kind, keys.add(key))
      if (hasEnded(kind, record)) this.#hasNewOutages = true
    }
  }

  /** Starts publishing changes once a second, whenever this replica is joined. */
  start(): void {
    this.#timer = setInterval(() => this.#tick(), PUBLISH_MS).unref()
  }

  /** Publishes the remaining changes, and stops. */
  async stop(): Promise<void> {
    clearInterval(this.#timer)
    this.#publishedAt = Number.NEGATIVE_INFINITY
    this.update()
    await this.#publish()
    this.#isJoined = false
  }

  /** Notes that this replica reaches the others: their sets are read, and its own is published. */
  joined(): void {
    this.#forget()
    this.#isJoined = true
    this.#needsAll = true
    this.#publishAgainAt = 0
    void this.#beginReading(this.#generation)
    this.#tick()
  }

  /** Notes that this replica cannot reach the others: only its own set is used. */
  alone(): void {
    this.#forget()
    this.#isJoined = false
  }

  /**
   * While another process writes the history file, this process has started with a copy of that process's records. They would
   * be counted twice, so this set is neither published nor merged until this process writes the file.
   */
  get #takesPart(): boolean {
    return this.#isJoined && !this.#options.store.isInUse
  }

  #forget(): void {
    this.#generation += 1
    this.#version += 1
    this.#others.clear()
    this.#toRead.clear()
  }

  #tick(): void {
    this.update()
    void this.#publish()
    for (const [id, { failedAt }] of this.#others) {
      if (failedAt > 0 && performance.now() - failedAt > AGAIN_MS) this.#readSoon(id)
    }
    if (this.#isJoined && performance.now() - this.#comparedAt > COMPARE_MS)
      void this.#compare(this.#generation)
    if (!this.#hasNewOutages || !this.#takesPart || this.#isReading) return
    this.#hasNewOutages = false
    if (this.#others.size > 0) this.#options.onOutages?.(this.sets)
  }

  // Publishing

  async #publish(): Promise<void> {
    const { replicas, store } = this.#options
    const { redis } = replicas
    if (redis === undefined || !this.#takesPart || this.#isPublishing) return
    if (performance.now() < this.#publishAgainAt) return
    const { id } = store.own
    this.#isPublishing = true
    try {
      if (this.#needsAll || this.#publishedId !== id) await this.#publishAll(redis, id)
      else await this.#publishChanges(redis, id)
    } catch {
      // Redis may be full. If the connection is lost, the link notices.
      this.#needsAll = true
      this.#publishAgainAt = performance.now() + AGAIN_MS
    } finally {
      this.#isPublishing = false
    }
  }

  async #publishAll(redis: Redis, id: string): Promise<void> {
    const { replicas, store, clock } = this.#options
    const generation = this.#generation
    const set = replicas.key(`records:${id}`)
    const next = `${set}:next`
    this.#unpublished.clear()
    this.#published.clear()
    const fields: string[] = []
    for (const kind of SHARED_KINDS) {
      const texts = newestOf(store.own, kind)
      this.#published.set(kind, new Map(texts.map(([key, text]) => [key, text.length])))
      for (const [key, text] of texts) fields.push(`${kind} ${key}`, text)
    }
    await redis.del(next)
    for (const part of partsOf(fields)) {
      await redis
        .multi()
        .hset(next, ...part)
        .pexpire(next, EXPIRE_MS)
        .exec()
      if (generation !== this.#generation) return
    }
    this.#count += 1
    const sets = replicas.key('records:sets')
    const outdated = clock() - EXPIRE_MS
    const known = await redis.zrevrange(sets, 0, -1, 'WITHSCORES')
    const earlier = this.#publishedId
    const forgotten = known.filter((each, index) => {
      if (index % 2 === 1 || each === id) return false
      return each === earlier || index / 2 >= MAX_SETS || Number(known[index + 1]) < outdated
    })
    const commands = redis
      .multi()
      .hset(next, META, metaText({ replica: replicas.name, origin: replicas.origin, count: this.#count }))
      .rename(next, set)
    if (forgotten.length > 0) {
      commands.zrem(sets, ...forgotten).del(...forgotten.map(each => replicas.key(`records:${each}`)))
    }
    await this.#commit(commands, id, [])
    if (generation !== this.#generation) return
    this.#publishedId = id
    this.#needsAll = false
  }

  async #publishChanges(redis: Redis, id: string): Promise<void> {
    const isHeartbeat = [...this.#unpublished].every(
      ([kind, keys]) => keys.size === 0 || HEARTBEAT_KINDS.includes(kind),
    )
    if (isHeartbeat && performance.now() - this.#publishedAt < HEARTBEAT_MS) return
    const changes = this.#takeChanges()
    if (changes.length === 0) return
    const set = this.#options.replicas.key(`records:${id}`)
    const { origin, name } = this.#options.replicas
    this.#count += 1
    const commands = redis.multi()
    const kept = changes.flatMap(([field, text]) => (text === undefined ? [] : [field, text]))
    commands.hset(set, ...kept, META, metaText({ replica: name, origin, count: this.#count }))
    const removed = changes.flatMap(([field, text]) => (text === undefined ? [field] : []))
    if (removed.length > 0) commands.hdel(set, ...removed)
    const length = await this.#commit(commands, id, [
      'b',
      `{${changes.map(([field, text]) => `${JSON.stringify(field)}:${text ?? 'null'}`).join(',')}}`,
    ])
    const expected = [...this.#published.values()].reduce((sum, { size }) => sum + size, 1)
    // Redis may have evicted the set because it is short of memory.
    if (length !== expected) this.#needsAll = true
  }

  /** Runs the commands in one transaction, together with appending the batch. Returns the number of fields in the set. */
  async #commit(
    commands: ReturnType<Redis['multi']>,
    id: string,
    batch: readonly string[],
  ): Promise<unknown> {
    const { replicas, clock } = this.#options
    const [stream, sets] = [replicas.key('records'), replicas.key('records:sets')]
    const meta = ['v', WIRE_VERSION, 's', id, 'o', replicas.origin, 'n', this.#count]
    commands.xadd(stream, 'MAXLEN', '~', MAX_ENTRIES, '*', ...meta, ...batch)
    commands.zadd(sets, Math.floor(clock()), id)
    const set = replicas.key(`records:${id}`)
    for (const key of [stream, sets, set]) commands.pexpire(key, EXPIRE_MS)
    const results = await commands.hlen(set).exec()
    for (const [error] of results ?? []) if (error !== null) throw error
    this.#publishedAt = performance.now()
    return results?.at(-1)?.[1]
  }

  /** The next batch. Counts of clients come late, because there may be many. The text of a forgotten record is undefined. */
  #takeChanges(): readonly (readonly [field: string, text: string | undefined])[] {
    const { records } = this.#options.store.own
    const changes: [string, string | undefined][] = []
    let length = 0
    for (const kind of [...HEARTBEAT_KINDS, ...SHARED_KINDS]) {
      const keys = this.#unpublished.get(kind) ?? new Set<string>()
      const published = this.#published.get(kind) ?? new Map<string, number>()
      this.#published.set(kind, published)
      for (const key of keys) {
        if (changes.length >= BATCH_RECORDS || length >= BATCH_LENGTH) return changes
        keys.delete(key)
        const record = records[kind].get(key)
        const text = record && JSON.stringify(record)
        if (text === undefined || text.length > MAX_RECORD_LENGTH) {
          if (published.delete(key)) changes.push([`${kind} ${key}`, undefined])
          continue
        }
        published.set(key, text.length)
        changes.push([`${kind} ${key}`, text])
        length += text.length
        let total = [...published.values()].reduce((sum, each) => sum + each, 0)
        for (const [oldest, each] of published) {
          if (total <= MAX_KIND_LENGTH[kind]) break
          published.delete(oldest)
          total -= each
          changes.push([`${kind} ${oldest}`, undefined])
        }
      }
    }
    return changes
  }

  // Reading

  async #beginReading(generation: number): Promise<void> {
    const { replicas } = this.#options
    const { redis } = replicas
    if (redis === undefined) return
    try {
      const [last] = await redis.xrevrange(replicas.key('records'), '+', '-', 'COUNT', 1)
      if (generation !== this.#generation) return
      replicas.follow('records', last?.[0] ?? '0-0', entries => {
        if (generation === this.#generation) this.#received(entries)
      })
      this.#comparedAt = performance.now()
      for (const id of await this.#listed(redis)) if (generation === this.#generation) this.#readSoon(id)
    } catch {
      // If the connection is lost, the link notices. Otherwise the sets are compared later.
      this.#comparedAt = performance.now() - COMPARE_MS + AGAIN_MS
    }
  }

  async #listed(redis: Redis): Promise<readonly string[]> {
    const listed = await redis.zrevrange(this.#options.replicas.key('records:sets'), 0, MAX_SETS - 1)
    return listed.filter(id => id !== this.#options.store.own.id)
  }

  #received(entries: readonly StreamEntry[]): void {
    for (const [, fields] of entries) {
      const batch = parseBatch(fields)
      if (batch === undefined) this.#options.onSkipped?.()
      else if (batch.id !== this.#options.store.own.id) this.#take(batch)
    }
  }

  #take(batch: Batch): void {
    const known = this.#others.get(batch.id)
    if (known?.waiting !== undefined) known.waiting.push(batch)
    else if (known === undefined || !this.#apply(known, batch)) this.#readSoon(batch.id)
  }

  /** Applies a batch; false if the whole set has to be read instead. */
  #apply(known: Other, { origin, count, records }: Batch): boolean {
    if (origin !== known.meta.origin || count > known.meta.count + 1) return false
    if (count <= known.meta.count) return true
    if (records === undefined) return false
    known.meta = { ...known.meta, count }
    for (const [field, record] of records) this.#setRecord(known.table, field, record)
    this.#version += 1
    return true
  }

  #setRecord(table: RecordTable, field: string, record: unknown): void {
    const space = field.indexOf(' ')
    const [kind, key] = [field.slice(0, space), field.slice(space + 1)]
    if (!table.set(kind, key, record ?? undefined)) this.#options.onSkipped?.()
    else if (hasEnded(kind, record)) this.#hasNewOutages = true
  }

  #readSoon(id: string): void {
    if (this.#others.size >= MAX_SETS && !this.#others.has(id)) return
    const known = this.#others.get(id) ?? {
      meta: { replica: '', origin: '', count: 0 },
      table: new RecordTable(),
      ...{ waiting: undefined, failedAt: 0, compared: undefined },
    }
    known.waiting ??= []
    known.failedAt = 0
    this.#others.set(id, known)
    this.#toRead.add(id)
    if (!this.#isReading) void this.#readAll()
  }

  /** Reads one set after the other, each in parts, so that requests do not have to wait long. */
  async #readAll(): Promise<void> {
    this.#isReading = true
    for (const id of this.#toRead) {
      this.#toRead.delete(id)
      const generation = this.#generation
      const known = this.#others.get(id)
      if (known === undefined) continue
      try {
        await this.#read(id, known, generation)
      } catch {
        known.waiting = undefined
        known.failedAt = performance.now()
      }
    }
    this.#isReading = false
  }

  async #read(id: string, known: Other, generation: number): Promise<void> {
    const { replicas } = this.#options
    const { redis } = replicas
    if (redis === undefined || generation !== this.#generation) return
    const key = replicas.key(`records:${id}`)
    // Read before the records: they may already include newer batches, which are then applied again without effect.
    const meta = parseMeta(await redis.hget(key, META))
    const table = new RecordTable()
    let [cursor, count, length] = ['0', 0, 0]
    do {
      const [next, fields] = await redis.hscan(key, cursor, 'COUNT', 100)
      if (generation !== this.#generation) return
      cursor = next
      for (let index = 0; index + 1 < fields.length; index += 2) {
        const [field = '', text = ''] = [fields[index], fields[index + 1]]
        if (field === META) continue
        count += 1
        length += text.length
        const isBounded = count <= MAX_RECORDS && length <= MAX_SET_LENGTH && text.length <= MAX_RECORD_LENGTH
        const record = isBounded ? parseJson(text) : undefined
        if (record === undefined) this.#options.onSkipped?.()
        else this.#setRecord(table, field, record)
      }
    } while (cursor !== '0' && count <= MAX_RECORDS)
    this.#version += 1
    if (meta === undefined) {
      // The set was removed, or is of another version.
      if (count > 0) this.#options.onSkipped?.()
      this.#others.delete(id)
      return
    }
    known.meta = meta
    known.table = table
    const waiting = known.waiting ?? []
    known.waiting = undefined
    for (const [index, batch] of waiting.entries()) {
      if (batch.origin === meta.origin && batch.count <= meta.count) continue
      if (this.#apply(known, batch)) continue
      this.#readSoon(id)
      known.waiting = waiting.slice(index)
      return
    }
  }

  /** Reads the sets that have changed in Redis but for which no batch has arrived, and forgets those that were removed. */
  async #compare(generation: number): Promise<void> {
    const { replicas } = this.#options
    const { redis } = replicas
    if (redis === undefined) return
    this.#comparedAt = performance.now()
    try {
      const listed = await this.#listed(redis)
      for (const id of listed) {
        const meta = parseMeta(await redis.hget(replicas.key(`records:${id}`), META))
        if (generation !== this.#generation) return
        const known = this.#others.get(id)
        if (known === undefined) {
          if (meta !== undefined) this.#readSoon(id)
          continue
        }
        // A batch may still be in transit, so decide at the next comparison.
        const { compared } = known
        known.compared = meta
        const isMissed =
          compared !== undefined &&
          (compared.origin !== known.meta.origin || compared.count > known.meta.count) &&
          compared.origin === meta?.origin
        if (isMissed && known.waiting === undefined) this.#readSoon(id)
      }
      for (const id of this.#others.keys()) {
        if (listed.includes(id)) continue
        this.#others.delete(id)
        this.#version += 1
      }
    } catch {
      // The next comparison repeats this.
    }
  }
}

function hasEnded(kind: string, record: unknown): boolean {
  return kind === 'outage' && isObject(record) && record.endedAt !== null
}

/** The newest records of a kind as JSON, oldest first. */
function newestOf(
  { records }: RecordSet,
  kind: SharedKind,
): readonly (readonly [key: string, text: string])[] {
  const newest: [string, string][] = []
  let length = 0
  for (const [key, record] of [...records[kind]].reverse()) {
    const text = JSON.stringify(record)
    if (text.length > MAX_RECORD_LENGTH) continue
    length += text.length
    if (length > MAX_KIND_LENGTH[kind]) break
    newest.push([key, text])
  }
  return newest.reverse()
}

/** Splits fields and values into parts, each for one command. */
function partsOf(fields: readonly string[]): readonly (readonly string[])[] {
  const parts: string[][] = []
  let length = Number.POSITIVE_INFINITY
  for (let index = 0; index < fields.length; index += 2) {
    const pair = fields.slice(index, index + 2)
    const last = parts.at(-1)
    if (last === undefined || length >= BATCH_LENGTH || last.length >= 2 * BATCH_RECORDS) {
      parts.push(pair)
      length = 0
    } else last.push(...pair)
    length += pair.reduce((sum, each) => sum + each.length, 0)
  }
  return parts
}

function metaText(meta: Meta): string {
  return JSON.stringify({ v: WIRE_VERSION, ...meta })
}

function parseMeta(text: string | null): Meta | undefined {
  const value = parseJson(text ?? '')
  if (!isObject(value) || value.v !== WIRE_VERSION) return undefined
  const { replica, origin, count } = value
  if (typeof replica !== 'string' || typeof origin !== 'string' || typeof count !== 'number') return undefined
  return Number.isSafeInteger(count) && count > 0
    ? { replica: replica.slice(0, 255), origin, count }
    : undefined
}

function parseBatch(fields: readonly string[]): Batch | undefined {
  const byName = new Map<string, string>()
  for (let index = 0; index + 1 < fields.length; index += 2) {
    byName.set(fields[index] ?? '', fields[index + 1] ?? '')
  }
  const [id, origin, count] = [byName.get('s'), byName.get('o'), Number(byName.get('n'))]
  if (byName.get('v') !== String(WIRE_VERSION) || id === undefined || origin === undefined) return undefined
  if (id.length > 100 || origin.length > 100 || !Number.isSafeInteger(count) || count < 1) return undefined
  const text = byName.get('b')
  if (text === undefined) return { id, origin, count, records: undefined }
  const value = text.length > 4 * MAX_RECORD_LENGTH ? undefined : parseJson(text)
  return isObject(value) ? { id, origin, count, records: Object.entries(value) } : undefined
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
