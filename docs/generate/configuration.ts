import { stringify } from 'yaml'
import { needsRestart } from '../../src/config/live.js'
import { describe, expectation, type OptionSchema } from '../../src/config/options.js'
import { ConfigSchema } from '../../src/config/schema.js'
import { sentenceCase, table } from './markdown.js'

/** `config/default.yaml`: every option at its default, below its description. Options without a default are comments. */
export function defaultYaml(): string {
  const { options, sections } = describe()
  const lines = [
    '# yaml-language-server: $schema=./schema.json',
    '# Every option of focus-breaker at its default. Generated from src/config/schema.ts.',
  ]
  const written = new Set<string>()
  for (const { name, schema } of options) {
    const keys = name.split('.')
    for (let depth = 1; depth < keys.length; depth++) {
      const parent = keys.slice(0, depth).join('.')
      if (written.has(parent)) continue
      written.add(parent)
      const section = sections.find(candidate => candidate.name === parent)
      lines.push(
        '',
        ...comment(section?.schema.description ?? '', depth - 1),
        `${indent(depth - 1)}${keys[depth - 1]}:`,
      )
    }
    const depth = keys.length - 1
    if (depth === 0) lines.push('')
    const key = keys[depth]
    lines.push(...comment(`${schema.description} ${sentenceCase(expectation(schema))}.`, depth))
    if (schema.default === undefined) lines.push(`${indent(depth)}# ${key}:`)
    else {
      const [first = '', ...rest] = stringify({ [key ?? '']: schema.default })
        .trimEnd()
        .split('\n')
      lines.push(...[first, ...rest].map(line => indent(depth) + line))
    }
  }
  return `${lines.join('\n')}\n`
}

/** `config/schema.json`, with which an editor completes and checks a configuration file. */
export function fileSchemaJson(): string {
  return `${JSON.stringify(fileSchema(ConfigSchema), null, 2)}\n`
}

/** The schema of the file: like that of the effective configuration, but every option is optional. */
function fileSchema(schema: OptionSchema): unknown {
  const { required: _, expected: _expected, secret: _secret, ...rest } = schema
  const isSection = schema.properties !== undefined && schema.expected === undefined
  if (!isSection) return withoutOwnKeywords(schema)
  const properties = Object.fromEntries(
    Object.entries(schema.properties ?? {}).map(([key, member]) => [key, fileSchema(member)]),
  )
  return { ...rest, properties }
}

/** Formats that only focus-breaker checks. */
const OWN_FORMATS: ReadonlySet<unknown> = new Set(['upstream-url', 'webhook-url', 'redis-url'])

/** Without the keywords that only focus-breaker reads: an editor would warn about them. */
function withoutOwnKeywords(schema: unknown): unknown {
  if (Array.isArray(schema)) return schema.map(withoutOwnKeywords)
  if (typeof schema !== 'object' || schema === null) return schema
  const kept = Object.entries(schema).filter(
    ([key, value]) => key !== 'expected' && key !== 'secret' && !(key === 'format' && OWN_FORMATS.has(value)),
  )
  return Object.fromEntries(kept.map(([key, value]) => [key, withoutOwnKeywords(value)]))
}

/** `docs/reference/configuration.md`. */
export function configurationPage(): string {
  const rows = describe().options.map(({ name, variable, schema }) => [
    `\`${name}\``,
    schema.default === undefined ? 'none' : `\`${JSON.stringify(schema.default)}\``,
    `${schema.description} ${sentenceCase(expectation(schema))}.${needsRestart(name) ? ' Needs a restart.' : ''}`,
    `\`${variable}\``,
  ])
  return `# Configuration

Generated from \`src/config/schema.ts\` by \`npm run docs\`.

Flags override environment variables, which override the file, which overrides the defaults.

- **File**: named by \`--config\` or \`FOCUS_BREAKER_CONFIG\`. It is plain YAML in UTF-8, without tags and merge keys.
  \`config/default.yaml\` shows every option at its default; an editor can complete and check the file with \`config/schema.json\`.
- **Environment**: lists and objects are written as JSON. An empty variable counts as not set.
- **Unknown keys and variables** are errors. Exceptions are the variables of the clients, and those that Kubernetes sets for a
  Service named \`focus-breaker\`.
- **Relative paths** are relative to the working directory of the process.

\`focus-breaker serve --check-config\` prints the effective configuration, with the origin of each value as a comment, and
exits. It also checks the files: the history file and its directory (it writes a file there and removes it), certificates,
keys, certificate authorities, secrets and \`override.file\`. Errors result in exit code 2. A problem that does not make the
configuration invalid, such as an expired certificate or a history file from a newer version, is a warning on standard
error.

## Options

${table(['Option', 'Default', 'Description', 'Variable'], rows)}

## Changing the configuration while it runs

SIGHUP reads the configuration again: the same file, environment and flags. \`POST /-/reload\` with the admin token does the
same. Its response lists what is in force (\`applied\`), what needs a restart (\`needRestart\`), and which files were
renewed (\`renewedFiles\`); it is a 422 if the configuration is invalid. A SIGHUP during startup takes effect when startup
is complete. An invalid configuration changes nothing.

The table marks the options that need a restart; the log warns about each one that has changed. All other
options take effect at once. In Kubernetes a ConfigMap that is mounted as a file changes in place; environment variables
do not.

Files that an option names are watched without a signal, and changes take effect within five seconds: the certificates, keys
and authorities of \`server.tls\` and \`upstream.tls\`, \`admin.tokenFile\`, \`notify.webhooksFile\`, \`notify.secretFile\`,
\`override.file\`, \`replicas.urlFile\` (at the next connection) and the files of \`probe.headers\`. Links, as in a volume
that Kubernetes mounts, are followed too. Open connections are not affected; new ones use the new files. Files that do not
match each other, for example in the middle of a renewal, change nothing and are logged once. A pipe is not read again.
`
}

function indent(depth: number): string {
  return '  '.repeat(depth)
}

function comment(text: string, depth: number): string[] {
  const lines: string[] = []
  let line = ''
  for (const word of text.split(' ')) {
    if (line.length + word.length > 96) {
      lines.push(line)
      line = ''
    }
    line = line === '' ? word : `${line} ${word}`
  }
  return [...lines, line].map(part => `${indent(depth)}# ${part}`)
}
