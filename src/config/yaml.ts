import {
  type Document,
  isAlias,
  isCollection,
  isMap,
  isNode,
  isScalar,
  Lexer,
  LineCounter,
  Parser,
  parseDocument,
  visit,
} from 'yaml'

/** A problem in a YAML document and its `line:column`. It quotes nothing, because any value may be a secret. */
export type YamlProblem = {
  /** '' if the problem has no single position. */
  readonly position: string
  readonly expected: string
  readonly given: string
}

/** A YAML document as plain data, or all its problems. */
export type Yaml =
  | { readonly ok: true; readonly value: unknown; readonly entryAt: EntryAt }
  | { readonly ok: false; readonly problems: readonly YamlProblem[] }

/** Returns the `line:column` of a key, and its value as written if it is a number. */
export type EntryAt = (keys: readonly string[]) => {
  readonly position?: string | undefined
  readonly number?: string | undefined
}

/** A configuration has four levels. Thousands of levels would crash the process, because the library is recursive. */
const MAX_DEPTH = 32

/** One syntax error is often reported many times. */
const MAX_SYNTAX_PROBLEMS = 5

const TAG_PREFIX = 'tag:yaml.org,2002:'

/** Tags that state the type that a value has anyway. */
const PLAIN_TAGS: ReadonlySet<string> = new Set(['str', 'int', 'float', 'bool', 'null', 'map', 'seq'])

/** Other tags of the YAML specifications. No other tag is shown, because it may be a secret that starts with `!`. */
const OTHER_TAGS: ReadonlySet<string> = new Set(['set', 'omap', 'pairs', 'binary', 'timestamp', 'merge'])

const NO_TAG = 'plain values without YAML tags; quote a string that starts with !'

/** Parses one YAML document of plain data, or JSON. */
export function readYaml(text: string): Yaml {
  const problem = problemOfDepth(text)
  if (problem !== undefined) return { ok: false, problems: [problem] }
  const lines = new LineCounter()
  const positionOf = (offset: number) => positionIn(lines, offset)
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, logLevel: 'error' })
  if (document.errors.length > 0) {
    const problems = document.errors.slice(0, MAX_SYNTAX_PROBLEMS).map(({ pos, message, code }) => ({
      position: positionOf(pos[0]),
      ...(code === 'TAG_RESOLVE_FAILED'
        ? { expected: NO_TAG, given: 'an unknown tag' }
        : // After a colon, some messages quote the text that they found.
          { expected: 'YAML', given: message.replace(/: ".*/s, '') }),
    }))
    return { ok: false, problems }
  }
  const problems = problemsOf(document, positionOf)
  if (problems.length > 0) return { ok: false, problems }
  try {
    return { ok: true, value: document.toJS(), entryAt: keys => entryIn(document, keys, positionOf) }
  } catch {
    // Every alias has its anchor, so this is the library's limit on aliases.
    const given = 'aliases that expand to too many values'
    return { ok: false, problems: [{ position: '', expected: 'YAML with few aliases (*name)', given }] }
  }
}

function positionIn(lines: LineCounter, offset: number): string {
  const { line, col } = lines.linePos(offset)
  return `${line}:${col}`
}

function entryIn(document: Document, keys: readonly string[], positionOf: (offset: number) => string) {
  const parent = document.getIn(keys.slice(0, -1), true)
  const pair = isMap(parent) ? parent.items.find(item => String(item.key) === keys.at(-1)) : undefined
  const range = isNode(pair?.key) ? pair.key.range : undefined
  const value = pair?.value
  return {
    position: range ? positionOf(range[0]) : undefined,
    number: isScalar(value) && typeof value.value === 'number' ? value.source : undefined,
  }
}

/**
 * The problem of a document with too many levels. The parser is not recursive, so it can count any number of levels.
 */
function problemOfDepth(text: string): YamlProblem | undefined {
  const lines = new LineCounter()
  lines.addNewLine(0)
  const parser = new Parser(lines.addNewLine)
  for (const lexeme of new Lexer().lex(text)) {
    // Only the depth of the stack is needed, not the tokens.
    for (const _ of parser.next(lexeme));
    // The stack also holds the document and the innermost value.
    if (parser.stack.length <= MAX_DEPTH + 2) continue
    const expected = `at most ${MAX_DEPTH} nested groups or lists`
    return { position: positionIn(lines, parser.offset), expected, given: 'more' }
  }
  return undefined
}

/** Problems of a document that is valid YAML but not plain data. */
function problemsOf(document: Document, positionOf: (offset: number) => string): readonly YamlProblem[] {
  const problems: YamlProblem[] = []
  const add = (node: unknown, expected: string, given: string) => {
    const range = isNode(node) ? node.range : undefined
    problems.push({ position: range ? positionOf(range[0]) : '', expected, given })
  }
  const anchors = new Map<string, unknown>()
  visit(document, (_, node, path) => {
    if (isAlias(node)) {
      const anchor = anchors.get(node.source)
      if (anchor === undefined) {
        const expected = 'an alias (*name) after its anchor (&name); quote a string that starts with *'
        add(node, expected, 'an alias that is not defined')
      } else if (path.some(above => above === anchor)) {
        add(node, 'an alias (*name) outside its anchor (&name)', 'an alias inside it')
      }
    }
    if (!isScalar(node) && !isCollection(node)) return
    if (node.anchor !== undefined) anchors.set(node.anchor, node)
    const tag = node.tag?.startsWith(TAG_PREFIX) ? node.tag.slice(TAG_PREFIX.length) : node.tag
    if (tag !== undefined && !PLAIN_TAGS.has(tag)) {
      add(node, NO_TAG, OTHER_TAGS.has(tag) ? `the tag !!${tag}` : 'an unknown tag')
    }
    if (!isMap(node)) return
    for (const { key } of node.items) {
      if (isScalar(key) && key.type === 'PLAIN' && key.source === '<<') {
        add(key, 'the keys themselves, or an alias (*name) for the whole value', 'a merge key (<<)')
      } else if (isCollection(key) || isAlias(key))
        add(key, 'a string as a key', 'a list, a group or an alias')
    }
  })
  if (problems.length > 0) return problems
  // For example !!int before a value that is not an integer.
  return document.warnings.map(({ pos }) => ({
    position: positionOf(pos[0]),
    expected: NO_TAG,
    given: 'an invalid tag or directive',
  }))
}
