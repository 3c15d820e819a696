import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { stringify } from 'yaml'
import { describe, expectation, type OptionSchema } from './options.js'
import { ConfigSchema } from './schema.js'

const root = fileURLToPath(new URL('../../', import.meta.url))

/** The files that are made from the schema, and the one that is made from the alerts, by their path in the repository. */
export function generatedFiles(): ReadonlyMap<string, string> {
  return new Map([
    ['deploy/kubernetes/components/monitoring/prometheusrule.yaml', prometheusRule()],
    ['config/default.yaml', defaultYaml()],
    ['config/schema.json', `${JSON.stringify(fileSchema(ConfigSchema), null, 2)}\n`],
    ['docs/reference/configuration.md', configurationPage()],
  ])
}

/**
 * The alerts for the Prometheus operator. It is a copy, because Kustomize reads no file above a kustomization, and cannot
 * put the groups of a file of rules into a resource.
 */
function prometheusRule(): string {
  const rules = readFileSync(`${root}deploy/prometheus/alerts.yml`, 'utf8')
  const groups = rules.slice(rules.indexOf('groups:'))
  return `# Generated from deploy/prometheus/alerts.yml.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  labels: { app.kubernetes.io/name: focus-breaker }
  name: focus-breaker
spec:
${groups.replaceAll(/^(?=.)/gm, '  ')}`
}

/** Every option at its default, each under its sentence; those without one stand as comments. */
function defaultYaml(): string {
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

/** The schema of the file: like that of the effective configuration, but nothing has to be there. */
function fileSchema(schema: OptionSchema): unknown {
  const { required: _, expected: _expected, secret: _secret, ...rest } = schema
  const isSection = schema.properties !== undefined && schema.expected === undefined
  if (!isSection) return withoutOwnKeywords(schema)
  const properties = Object.fromEntries(
    Object.entries(schema.properties ?? {}).map(([key, member]) => [key, fileSchema(member)]),
  )
  return { ...rest, properties }
}

/** Formats that only we check. */
const OWN_FORMATS: ReadonlySet<unknown> = new Set(['upstream-url', 'webhook-url', 'redis-url'])

/** Keywords that only we read, and that an editor would warn of. */
function withoutOwnKeywords(schema: unknown): unknown {
  if (Array.isArray(schema)) return schema.map(withoutOwnKeywords)
  if (typeof schema !== 'object' || schema === null) return schema
  const kept = Object.entries(schema).filter(
    ([key, value]) => key !== 'expected' && key !== 'secret' && !(key === 'format' && OWN_FORMATS.has(value)),
  )
  return Object.fromEntries(kept.map(([key, value]) => [key, withoutOwnKeywords(value)]))
}

function configurationPage(): string {
  const rows = describe().options.map(({ name, variable, schema }) => {
    const initial = schema.default === undefined ? 'none' : `\`${JSON.stringify(schema.default)}\``
    return `| \`${name}\` | ${cell(initial)} | ${cell(`${schema.description} ${sentenceCase(expectation(schema))}.`)} | \`${variable}\` |`
  })
  return `# Configuration

Generated from \`src/config/schema.ts\`; \`npm run generate\` makes it anew.

Flags beat environment variables, which beat the file, which beats the defaults. The file is plain YAML in UTF-8 (no tags, no merge keys) and is named by
\`--config\` or \`FOCUS_BREAKER_CONFIG\`; \`config/default.yaml\` shows every option, and \`config/schema.json\` lets an
editor complete and check it. Lists are given in the environment as JSON. An empty variable counts as not set.
Relative paths are relative to the working directory of the process. An unknown key or variable is an error, except for those of the clients and the variables that Kubernetes derives from a Service named
\`focus-breaker\`. \`focus-breaker serve --check-config\` prints what is in
force, with the origin of each value as a comment, and stops. It tries the files: the history and its directory (by writing beside it, which
leaves nothing behind), certificates, keys, authorities, secrets and \`override.file\`. What is wrong is named, with exit code 2; what may
not be meant (an expired certificate, a history of a newer version) is a warning on standard error.

| Option | Default | What it is | Variable |
|---|---|---|---|
${rows.join('\n')}
`
}

function cell(text: string): string {
  return text.replaceAll('|', '\\|')
}

function sentenceCase(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1)
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

/** `node dist/config/generate.js` writes the files; with `--check` it names the stale ones and exits with 1. */
function main(): void {
  for (const [path, text] of generatedFiles()) {
    if (!process.argv.includes('--check')) writeFileSync(root + path, text)
    else if (readFileSync(root + path, 'utf8') !== text) {
      process.stderr.write(`${path} is stale: npm run generate\n`)
      process.exitCode = 1
    }
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) main()
