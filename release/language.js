/**
 * Finds phrases that are hard to read for many readers in Markdown, page texts, comments and strings, and suggests
 * replacements.
 *
 *     node release/language.js [PATH...]    prints each as FILE:LINE: "phrase" → replacement, and exits with 1
 *
 * Without a path, it checks the working directory, which is the repository. Code in Markdown and text between
 * backticks in comments are skipped, so names and old messages can be quoted there.
 */
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join, relative } from 'node:path'

/**
 * A piece of text that is checked as a whole: a paragraph, a comment, a string. `starts` has the offset of each line in
 * it, and the number of that line in the file.
 *
 * @typedef {{ readonly text: string, readonly starts: readonly (readonly [offset: number, line: number])[] }} Block
 */

/** A phrase at the start of a sentence. */
const START = '(?<=^(?:[-*] |\\d+\\. |> |\\| )?|[.?!:] |\\| )'

/**
 * Each pattern, and what to write instead. There are few, and they are precise: a false alarm costs more than a missed
 * phrase.
 *
 * @type {readonly (readonly [pattern: RegExp, instead: string, only?: 'source'])[]}
 */
const BANNED = [
  [/\bwho(?:m|so)?ever\b/gi, 'name the person or the component'],
  [/\bof whom\b/gi, 'whose, or two sentences'],
  [/\banew\b/gi, 'again'],
  [/(?<!\b[Tt]here )\b(?:is|are|was|were) none\b(?! of)/g, 'is not a …'],
  [/\bby then\b/gi, 'until then, or name the moment'],
  [
    /\bas (?:the |a |an )?[\w.`·-]+(?: [\w.`·-]+)? (?:has|have|had) (?:it|them)(?=[.,;:)]|$)/gi,
    'as … defines',
  ],
  [/\b(?:un)?mend(?:s|ed|ing)?\b/gi, 'fix'],
  [/\boperator['’]s word\b/gi, 'manual override'],
  [/\bwithout (?:any )?rights\b/gi, 'as an unprivileged user'],
  [/(?<!\bfast )\blanes?\b/gi, 'upstream queue'],
  [
    /\b(?:a|an|the|each|every|one|this|that|same|long|short|first|last|new|unreachable|of) spells?\b/gi,
    'unreachable period',
  ],
  [
    /\b(?:(?:one|one more|each|every|next|last) look|(?:two|three|several|between) looks)\b(?! like)/gi,
    'probe, check',
  ],
  [/\blook(?:s|ed|ing)? (?:once |again )?(?:at the fiber|at the upstream|whether|if)\b/gi, 'probe, check'],
  [/(?<!\b(?:in|no|without) )\bdoubts?\b/gi, 'probe request'],
  [/\b(?:is|are|was|were|be|been|being|gets?|got) told\b/gi, 'is notified, is sent, is reported'],
  [/\btold\b(?! apart|\.)/gi, 'reported, sent, notified'],
  [/\btold apart\b|\btells? (?:\w+ )?apart\b/gi, 'distinguish'],
  [/\btells? (?:how|of|when|which|who|what|that|whether|why|where)\b/gi, 'reports, shows'],
  [/\b(?:nobody|somebody|someone|no one)\b/gi, 'name the component or the person', 'source'],
  [/\bsee(?:s|n)? to (?:it|that|this|them)\b/gi, 'check, make sure'],
  [/\bfor want of\b/gi, 'without, because there is no'],
  [/\bin vain\b/gi, 'without success'],
  [/\bat last\b/gi, 'finally, eventually'],
  [/\b(?:begins?|began|begun) with (?:it|this|these|that)\b/gi, 'start with'],
  [/\b(?:is|are|was) content with\b/gi, 'accepts, only needs'],
  [/\bthe crowd\b/gi, 'waiting clients'],
  [/\b(?:is|are|was|were|be) (?:not |never |no longer )?believed\b/gi, 'trusted, ignored'],
  [/\bwalk(?:s|ed|ing)? (?:a)?round\b/gi, 'bypass'],
  [/\b(?:goes|go|went|going) on(?= (?:until|as|with|to|for|while|after|when)\b|[.,;:)]|$)/gi, 'continues'],
  [/\b(?:is|are|was|were) over(?=[.,;:)]|$| (?:and|before|when|or|but|until)\b)/gi, 'ends, ended'],
  [/\bbeside\b/gi, 'next to, along with'],
  [/\bshall\b/gi, 'must, will, should'],
  [/\bcome(?:s)? of\b/gi, 'comes from, results from'],
  [/\b(?:hop-by-hop|header|HTTP|request|response) fields\b(?! too large)/gi, 'headers'],
  [/\bnothing is known of\b/gi, 'unknown'],
  [/\bwrong [\w-]+(?: [\w-]+)? (?:is|are|was|were) given\b/gi, '… failed, or invalid …'],
  [/\bwith a restart only\b/gi, 'need a restart'],
  [/\b(?:request|response|client) has been here before\b/gi, 'forwarding loop, or repeated'],
  [/\b(?:has|have|had) a fault\b(?! in)/gi, 'is invalid'],
  [/\b(?:finds?|found|has|have|had) no room\b/gi, 'the queue is full'],
  [/\b(?:held|waits?|waiting) in the (?:room|lane)\b/gi, 'queued, waiting'],
  [/\b(?:would|is|are|be) (?:too )?dear\b/gi, 'costly'],
  [/\bif need be\b/gi, 'if needed'],
  [/\b(?:whence|wherefore|whereof|thereof|therein|henceforth|hereby|herein)\b/gi, 'a plain word'],
  [new RegExp(`${START}Of (?!course\\b)[\\w\`·]`, 'g'), 'subject first'],
  [
    new RegExp(
      `${START}What (?:is|was|are|were|can|cannot|must|may) [^.?!:;|]{1,90}? ` +
        '(?:is|are|was|were|has|goes|stays|stands|remains) \\w(?![^.]*\\?)',
      'g',
    ),
    'subject first',
  ],
]

/** Folders and files without text of our own, and this list with its test. */
const SKIPPED =
  /^(?:\.git|\.build|\.stryker.*|node_modules|dist|build|coverage|__pycache__|bin|LICENSE|package-lock\.json|language\.js|language\.test\.ts)$/

/** How each kind of file is split, by its extension. */
const SPLIT = /** @type {const} */ ([
  [/\.md$/, markdown],
  [/\.(?:ts|js|mjs|css)$/, script],
  [/\.(?:py|sh)$|^run$/, hashScript],
  [/\.(?:ya?ml|toml|conf|service|html)$|^Dockerfile/, plain],
  [/^(?:dashboard|schema)\.json$/, plain],
])

const paths = process.argv.slice(2)
let found = 0
for (const file of (paths.length > 0 ? paths : ['.']).flatMap(files)) {
  for (const line of check(file)) {
    console.log(line)
    found += 1
  }
}
if (found > 0) {
  console.log(`${found} ${found === 1 ? 'phrase' : 'phrases'} to rewrite in plain English`)
  process.exitCode = 1
}

/**
 * The files under a path that contain text.
 *
 * @param {string} path
 * @returns {readonly string[]}
 */
function files(path) {
  if (!statSync(path).isDirectory()) return splitterOf(path) === undefined ? [] : [path]
  return readdirSync(path, { withFileTypes: true })
    .filter(({ name }) => !SKIPPED.test(name))
    .flatMap(entry => {
      if (entry.isDirectory()) return files(join(path, entry.name))
      return entry.isFile() && splitterOf(entry.name) !== undefined ? [join(path, entry.name)] : []
    })
}

/** @param {string} path */
function splitterOf(path) {
  const name = path.slice(path.lastIndexOf('/') + 1)
  return SPLIT.find(([pattern]) => pattern.test(name))?.[1]
}

/**
 * @param {string} file
 * @returns {readonly string[]} a line for each phrase, in the order of the file
 */
function check(file) {
  const shown = relative(process.cwd(), file)
  const isSource = /(?:^|\/)src\//.test(file) && /\.ts$/.test(file)
  /** @type {(readonly [line: number, text: string])[]} */
  const lines = []
  for (const { text, starts } of splitterOf(file)?.(readFileSync(file, 'utf8')) ?? []) {
    const taken = new Set()
    for (const [pattern, instead, only] of BANNED) {
      if (only === 'source' && !isSource) continue
      for (const match of text.matchAll(pattern)) {
        const end = match.index + match[0].length
        if (taken.has(end)) continue
        taken.add(end)
        const line = starts.findLast(([offset]) => offset <= match.index)?.[1] ?? 1
        lines.push([line, `${shown}:${line}: "${match[0]}" → ${instead}`])
      }
    }
  }
  return lines.sort(([a], [b]) => a - b).map(([, text]) => text)
}

/**
 * Joins lines into one text, so that phrases that span several lines are found.
 *
 * @param {readonly (readonly [line: number, text: string])[]} lines
 * @returns {Block}
 */
function joined(lines) {
  let text = ''
  /** @type {(readonly [number, number])[]} */
  const starts = []
  for (const [line, part] of lines) {
    const trimmed = part.trim().replace(/\s+/g, ' ')
    if (trimmed === '') continue
    if (text !== '') text += ' '
    starts.push([text.length, line])
    text += trimmed
  }
  return { text: text.replace(/`[^`]*`/g, code => '·'.repeat(code.length)), starts }
}

/**
 * Groups lines that follow each other into blocks. An empty text ends a block.
 *
 * @param {readonly (readonly [line: number, text: string])[]} lines
 * @returns {Block[]}
 */
function paragraphs(lines) {
  /** @type {(readonly [number, string])[][]} */
  const groups = [[]]
  for (const [line, text] of lines) {
    const last = groups.at(-1) ?? []
    const isBreak = text.trim() === '' || (last.at(-1)?.[0] ?? line) < line - 1
    // A heading, a list item, a table row and a YAML key each start a new block.
    if (isBreak || /^\s*(?:#{1,6} |[-*] |\d+\. |\||@\w+|- )/.test(text)) groups.push([])
    if (text.trim() !== '') groups.at(-1)?.push([line, text])
  }
  return groups.filter(group => group.length > 0).map(joined)
}

/** @param {string} content */
function markdown(content) {
  let isCode = false
  return paragraphs(
    content.split('\n').map((text, index) => {
      const isFence = /^\s*(?:> )?(?:```|~~~)/.test(text)
      if (isFence) isCode = !isCode
      const isText = !isCode && !isFence && !/^ {4,}(?![-*] |\d+\. |\w)/.test(text)
      return /** @type {const} */ ([index + 1, isText ? text.replace(/\]\([^)]*\)/g, ']') : ''])
    }),
  )
}

/**
 * Files of which every line is checked: YAML, HTML, unit files.
 *
 * @param {string} content
 */
function plain(content) {
  const lines = content.replace(/<(?:script|style)\b[\s\S]*?<\/(?:script|style)>/g, code =>
    code.replace(/[^\n]/g, ' '),
  )
  return paragraphs(
    lines
      .split('\n')
      .map((text, index) => [index + 1, text.replace(/^\s*#+ ?/, '').replace(/<[^>]*>/g, ' ')]),
  )
}

/**
 * Comments and strings of TypeScript, JavaScript and CSS.
 *
 * @param {string} content
 */
function script(content) {
  const TOKEN =
    /(?<=(?:^|[(,=:[!&|?{};\n]|return) *)\/(?![*/])(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n[])+\/[a-z]*|\/\/.*|\/\*[\s\S]*?\*\/|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|`(?:\\[\s\S]|\$\{(?:[^{}`]|\{[^{}]*\}|`[^`]*`)*\}|[^`\\])*`/g
  return tokens(content, TOKEN, /^\/\/ ?|^\/\*+|\*\/$|^\s*\* ?/g)
}

/**
 * Comments and strings of Python and shell.
 *
 * @param {string} content
 */
function hashScript(content) {
  const TOKEN =
    /(?<=^|\s)#.*|"""(?:\\[\s\S]|[\s\S])*?"""|'''[\s\S]*?'''|"(?:\\[\s\S]|[^"\\\n])*"|'(?:\\[\s\S]|[^'\\\n])*'/gm
  return tokens(content, TOKEN, /^#+!? ?/g)
}

/**
 * @param {string} content
 * @param {RegExp} pattern what finds a comment or a string
 * @param {RegExp} marks what makes a line a comment
 */
function tokens(content, pattern, marks) {
  /** @type {(readonly [number, string])[]} */
  const comments = []
  /** @type {Block[]} */
  const strings = []
  let [line, at] = [1, 0]
  for (const match of content.matchAll(pattern)) {
    line += content.slice(at, match.index).split('\n').length - 1
    at = match.index
    const [token] = match
    const isComment = /^(?:#|\/\/|\/\*)/.test(token)
    const parts = token.split('\n')
    if (isComment) {
      if (parts.length > 1) comments.push([line, ''])
      for (const [index, part] of parts.entries()) comments.push([line + index, part.replace(marks, '')])
      if (parts.length > 1) comments.push([line + parts.length - 1, ''])
    } else if (!token.startsWith('/')) {
      const inner = token
        .replace(/^(['"`])\1{0,2}|(['"`])\2{0,2}$/g, '')
        .replace(/\$\{[^}]*\}/g, x => '·'.repeat(x.length))
      const lines = inner.split('\n').map((text, index) => /** @type {const} */ ([line + index, text]))
      strings.push(...(token.startsWith('`') ? [joined(lines)] : paragraphs(lines)))
    }
  }
  return [...paragraphs(comments), ...strings]
}
