/** The version of the history file that this program writes. It reads this version and all earlier ones. */
export const HISTORY_VERSION = 2

/** The first line of a history file. */
export const HEADER = `${JSON.stringify({ historyVersion: HISTORY_VERSION })}\n`

/** A record in a history file; null removes it. `isVersioned` is false for version 1. */
export type RawChange = { readonly key: string; readonly record: unknown; readonly isVersioned: boolean }

/** The content of a history file. */
export type HistoryText = {
  /** 1 for the format without version numbers; undefined when the file has no complete valid line. */
  readonly version: number | undefined
  /** By kind, in the order in which they were written. */
  readonly changes: ReadonlyMap<string, readonly RawChange[]>
  /** The number of malformed and incomplete lines. */
  readonly skippedLines: number
  /** Whether the last line may be incomplete. */
  readonly isTorn: boolean
  /** Whether this is not a history file; most likely the path is wrong. */
  readonly isForeign: boolean
}

/** The possible starts of the first line, in every version. */
const FIRST_LINES = ['{"historyVersion":', '{"v":', '{"outage":', '{"unreachable":', '{"override":']

/**
 * Parses the text of a history file: one line of JSON for each write. In `{"v":2,"<kind>":{"<key>":<record>,…},…}` the last
 * record of a key counts, and null removes it. Nothing is changed in place, so an incomplete line loses only itself.
 *
 * Lines of version 1 are read as well, even between lines of this version: a program of that version may have run in
 * between.
 */
export function parseHistory(text: string): HistoryText {
  const changes = new Map<string, RawChange[]>()
  let version: number | undefined
  let skippedLines = 0
  for (const line of text.split('\n')) {
    if (line === '') continue
    const known = parseLine(line)
    if (known === undefined) skippedLines += 1
    else {
      version = Math.max(version ?? 1, known.version)
      for (const [kind, key, record] of known.changes) {
        const ofKind = changes.get(kind) ?? []
        changes.set(kind, ofKind)
        ofKind.push({ key, record, isVersioned: known.version > 1 })
      }
    }
  }
  const isForeign = version === undefined && !isBegunHistory(text)
  return { version, changes, skippedLines, isTorn: text !== '' && !text.endsWith('\n'), isForeign }
}

/** The line that changes these records. A record that is null is removed. */
export function historyLine(
  kinds: ReadonlyMap<string, readonly (readonly [key: string, record: unknown])[]>,
): string {
  const members = [...kinds].map(([kind, changes]) => [kind, Object.fromEntries(changes)] as const)
  return `${JSON.stringify({ v: HISTORY_VERSION, ...Object.fromEntries(members) })}\n`
}

/** Whether a value is an object of JSON. */
export function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

type Change = readonly [kind: string, key: string, record: unknown]

function parseLine(
  line: string,
): { readonly version: number; readonly changes: readonly Change[] } | undefined {
  let value: unknown
  try {
    value = JSON.parse(line)
  } catch {
    return undefined
  }
  if (!isObject(value)) return undefined
  const { historyVersion, v, ...kinds } = value
  if (isVersion(historyVersion)) return { version: historyVersion, changes: [] }
  if (isVersion(v)) {
    // In a newer version, a kind may have no keys.
    const changes = Object.entries(kinds).flatMap(([kind, changed]): readonly Change[] =>
      isObject(changed)
        ? Object.entries(changed).map(([key, record]) => [kind, key, record] as const)
        : [[kind, '', changed]],
    )
    return { version: v, changes }
  }
  const changes = changesOfVersion1(value)
  return changes && { version: 1, changes }
}

/** In version 1, a line is one change, and its key is a time in the record; `replaces` is the key of an earlier line. */
function changesOfVersion1({
  replaces,
  ...line
}: Readonly<Record<string, unknown>>): readonly Change[] | undefined {
  const [[kind, record] = ['', undefined], ...others] = Object.entries(line)
  if (others.length > 0 || (replaces !== undefined && typeof replaces !== 'string')) return undefined
  if (kind === 'override' && (record === null || isObject(record))) return [['standing', 'override', record]]
  if (!isObject(record)) return undefined
  const key = kind === 'outage' ? record.startedAt : kind === 'unreachable' ? record.from : undefined
  if (typeof key !== 'string') return undefined
  return [...(replaces === undefined ? [] : [[kind, replaces, null] as const]), [kind, key, record]]
}

function isVersion(value: unknown): value is number {
  return typeof value === 'number' && Number.isInteger(value) && value >= 2
}

/** Whether a file without a complete line may be a history with an incomplete first line. */
function isBegunHistory(text: string): boolean {
  // A power failure can leave zero bytes where data was not written out.
  const written = text.replaceAll('\0', '').trimStart()
  return FIRST_LINES.some(start => written.startsWith(start) || start.startsWith(written))
}
