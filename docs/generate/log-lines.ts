import { LOG_LEVELS } from '../../src/domain/vocabulary.js'
import { LOG_NOTES } from './log-notes.js'
import { codes, table } from './markdown.js'
import type { LogCall } from './source-texts.js'

/** A line of the log, wherever it is written. */
type Line = {
  readonly message: string
  readonly levels: readonly string[]
  readonly fields: readonly string[]
}

/** `docs/reference/log.md`, from the calls that write the log. */
export function logPage(calls: readonly LogCall[]): string {
  const lines = linesOf(calls)
  const faults = [
    ...lines
      .filter(({ message }) => LOG_NOTES[message] === undefined)
      .map(({ message }) => `no note on “${message}”`),
    ...Object.keys(LOG_NOTES)
      .filter(message => lines.every(line => line.message !== message))
      .map(message => `a note on “${message}”, which is not logged`),
  ]
  if (faults.length > 0)
    throw new Error(
      `docs/generate/log-notes.ts has:\n  ${faults.join('\n  ')}\nEdit the notes, then run \`npm run docs\``,
    )
  const sections = LOG_LEVELS.flatMap(level => {
    const ofLevel = lines
      .filter(({ levels }) => levels[0] === level)
      .sort((a, b) => a.message.localeCompare(b.message, 'en'))
    return ofLevel.length === 0 ? [] : [`## Level \`${level}\`\n\n${tableOf(ofLevel)}\n`]
  })
  return `# Log

Generated from the calls in \`src/\` that write the log, and from \`docs/generate/log-notes.ts\`, by \`npm run docs\`.

The log is written to standard output: JSON lines, or with \`log.format: pretty\` lines for people. \`log.level\` is the
lowest level that is written. Each JSON line has \`level\` (a number), \`time\`, \`msg\` and the members below; a \`?\`
marks a member that may be missing, and \`…\` a part of a message that varies. Frequent events are summarized: many refused
requests become one line every ten seconds.

The service does not depend on its log. On a full disk, a closed terminal or a closed pipe, lines are dropped. If the reader
does not keep up, up to 1 MiB is buffered. Dropped lines are counted in \`focus_breaker_log_lines_dropped_total\`. A second
SIGTERM or SIGINT ends the process at once, whatever the state of the log.

${sections.join('\n')}`
}

/** Each message once, with the levels that it may have, the most severe first, and the members of all its calls. */
function linesOf(calls: readonly LogCall[]): readonly Line[] {
  const lines = new Map<string, { readonly levels: Set<string>; readonly fields: Set<string> }>()
  for (const { messages, levels, fields } of calls) {
    for (const message of messages) {
      const line = lines.get(message) ?? { levels: new Set(), fields: new Set() }
      for (const level of levels) line.levels.add(level)
      for (const field of fields) line.fields.add(field)
      lines.set(message, line)
    }
  }
  return [...lines].map(([message, { levels, fields }]) => ({
    message,
    levels: LOG_LEVELS.filter(level => levels.has(level)),
    fields: [...fields].filter(field => !(field.endsWith('?') && fields.has(field.slice(0, -1)))),
  }))
}

function tableOf(lines: readonly Line[]): string {
  return table(
    ['Message', 'Meaning', 'What to do', 'Members'],
    lines.map(({ message, fields }) => {
      const { meaning = '', action = '–', fields: more = '' } = LOG_NOTES[message] ?? {}
      const members = codes(fields)
      return [
        `\`${message}\``,
        meaning,
        action,
        [members === '' ? '' : `${members}.`, more].join(' ').trim() || '–',
      ]
    }),
  )
}
