import { X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createSecureContext } from 'node:tls'
import * as Format from 'typebox/format'
import { Settings } from 'typebox/system'
import { Value } from 'typebox/value'
import { isMap, isNode, LineCounter, parseDocument, parse as parseYaml } from 'yaml'
import { isPeer } from './peers.js'
import { type Config, ConfigSchema, describe, expectation, type Option, type OptionSchema } from './schema.js'

/** One thing that is wrong with a configuration, and where it was said. */
export type Fault = {
  /** Dotted name of the option, or of what was taken for one; '' when it is none. */
  readonly option: string
  /** Where the value came from: `config.yaml:12`, a variable, a flag; '' when nothing gave it. */
  readonly source: string
  readonly expected: string
  /** The value as it was given, for people; secrets are masked. */
  readonly given: string
}

/** A configuration, or everything that is wrong with it. */
export type Loaded =
  | { readonly ok: true; readonly config: Config }
  | { readonly ok: false; readonly faults: readonly Fault[] }

/** Where the options come from. Flags beat the environment, which beats the file, which beats defaults. */
export type Sources = {
  /** Path of a YAML file. */
  readonly file?: string | undefined
  readonly environment: Readonly<Record<string, string | undefined>>
  /** Values by the option's dotted name, each with the flag it came from. */
  readonly flags?: ReadonlyMap<string, { readonly flag: string; readonly value: string }>
}

const PREFIX = 'FOCUS_BREAKER_'
/** The variable that names the file where no `--config` does. */
export const FILE_VARIABLE = `${PREFIX}CONFIG`
/**
 * What Kubernetes puts into every pod's environment for a Service named `focus-breaker` or `focus-breaker-…`
 * (https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables).
 */
const SERVICE_LINK =
  /^FOCUS_BREAKER_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)$/
const SERVICE_LINK_VALUE = /^(tcp|udp|sctp):\/\//

/** The options that have no default and have to be given. */
const REQUIRED: ReadonlySet<string> = new Set(['upstream.url'])

type Tree = { [key: string]: unknown }

Format.Set('upstream-url', isUpstreamUrl)
Format.Set('peer', isPeer)
// Faults are named all at once; a file of more than these is not a configuration.
Settings.Set({ maxErrors: 1000 })

/** Reads, merges and checks every source, and names every fault at once. */
export function load(sources: Sources): Loaded {
  const faults: Fault[] = []
  const origins = new Map<string, string>()
  const tree = defaults()
  const { options } = describe()
  const file = sources.file ?? (sources.environment[FILE_VARIABLE] || undefined)
  const isFileRead = file === undefined || mergeFile(file, tree, origins, faults)
  mergeEnvironment(sources.environment, options, tree, origins, faults)
  for (const [name, { flag, value }] of sources.flags ?? []) {
    const option = options.find(candidate => candidate.name === name)
    if (option === undefined) continue
    setIn(tree, name, fromText(value, option.schema))
    origins.set(name, flag)
  }
  const secrets = readSecretFiles(options, tree, origins, faults)
  if (!Value.Check(ConfigSchema, tree)) faults.push(...invalidValues(tree, options, origins, secrets))
  // What a broken file would have said is not known.
  if (isFileRead) faults.push(...missingValues(tree, options))
  const named = new Set(faults.map(fault => fault.option))
  const config = healed(tree, named)
  faults.push(...contradictions(config, origins).filter(({ option }) => !named.has(option)))
  return faults.length === 0 ? { ok: true, config } : { ok: false, faults }
}

/** One line for each fault, under a heading; what `serve` prints before it exits with 2. */
export function explain(faults: readonly Fault[]): string {
  const lines = faults.map(({ option, source, expected, given }) => {
    const where = [source, option].filter(part => part !== '').join(': ')
    return `  ${where}: expected ${expected}${given === '' ? '' : `; given ${given}`}`
  })
  const heading =
    faults.length === 1 ? 'The configuration has a fault:' : `The configuration has ${faults.length} faults:`
  return [heading, ...lines].join('\n')
}

/** The configuration as it may be shown: secrets and the credentials of URLs are masked. */
export function masked(config: Config): unknown {
  const shown: Tree = {}
  const all: Tree = { ...config }
  for (const { name, schema } of describe().options) {
    const value = getIn(all, name)
    if (value === undefined) continue
    const isSecret = schema.secret === true
    setIn(shown, name, isSecret ? '********' : typeof value === 'string' ? withoutCredentials(value) : value)
  }
  for (const { name } of describe().sections)
    if (name !== '' && getIn(shown, name) === undefined) setIn(shown, name, {})
  return shown
}

/** `http://user:secret@host/` → `http://***@host/`; any other text as it is. */
export function withoutCredentials(text: string): string {
  return text.replace(/^([a-z][a-z0-9+.-]*:\/\/)[^/?#]*@/i, '$1***@')
}

/** Puts the options of a file into `tree`; false when nothing could be read of it. */
function mergeFile(file: string, tree: Tree, origins: Map<string, string>, faults: Fault[]): boolean {
  const fault = (source: string, expected: string, given: string) => {
    faults.push({ option: '', source, expected, given })
    return false
  }
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    return fault(file, 'a file that can be read', reasonOf(error))
  }
  const lines = new LineCounter()
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false })
  for (const error of document.errors) {
    const { line, col } = lines.linePos(error.pos[0])
    fault(`${file}:${line}:${col}`, 'YAML', error.message)
  }
  if (document.errors.length > 0) return false
  let content: unknown
  try {
    content = document.toJS()
  } catch {
    // The error's message would show the name of the alias, which may be a secret that begins with a *.
    return fault(
      file,
      'YAML whose aliases (*name) are all defined; quote a text that begins with *',
      'one that is not',
    )
  }
  if (content === null || content === undefined) return true
  if (!isTree(content)) return fault(file, 'groups of options', kindOf(content))
  const lineOf = (keys: readonly string[]): string => {
    const parent = document.getIn(keys.slice(0, -1), true)
    const pair = isMap(parent) ? parent.items.find(item => String(item.key) === keys.at(-1)) : undefined
    const range = pair !== undefined && isNode(pair.key) ? pair.key.range : undefined
    return range ? `${file}:${lines.linePos(range[0]).line}` : file
  }
  mergeTree(content, [], tree, origins, lineOf, faults)
  return true
}

/** Puts each known option of `from` into `tree`, and names everything else. */
function mergeTree(
  from: Tree,
  above: readonly string[],
  tree: Tree,
  origins: Map<string, string>,
  lineOf: (keys: readonly string[]) => string,
  faults: Fault[],
): void {
  const { options, sections } = describe()
  for (const [key, value] of Object.entries(from)) {
    const keys = [...above, key]
    const name = keys.join('.')
    const isKnown = (candidate: { readonly name: string }) => !key.includes('.') && candidate.name === name
    if (options.some(isKnown)) {
      origins.set(name, lineOf(keys))
      // `key:` without a value means that the option is not set, and its default holds.
      if (value !== null) setIn(tree, name, value)
    } else if (!sections.some(isKnown)) {
      const names = [...options, ...sections].map(known => known.name).filter(known => known !== '')
      const expected = `the name of an option${suggestion(name, names)}`
      faults.push({ option: name, source: lineOf(keys), expected, given: 'an unknown key' })
    } else if (isTree(value)) {
      mergeTree(value, keys, tree, origins, lineOf, faults)
    } else if (value !== null) {
      faults.push({
        option: name,
        source: lineOf(keys),
        expected: 'a group of options',
        given: kindOf(value),
      })
    }
  }
}

function mergeEnvironment(
  environment: Sources['environment'],
  options: readonly Option[],
  tree: Tree,
  origins: Map<string, string>,
  faults: Fault[],
): void {
  const byVariable = new Map(options.map(option => [option.variable, option]))
  for (const [variable, text] of Object.entries(environment)) {
    // An empty variable is how Compose files and CI say that one is not set.
    if (!variable.startsWith(PREFIX) || variable === FILE_VARIABLE || !text?.trim()) continue
    const option = byVariable.get(variable)
    if (SERVICE_LINK_VALUE.test(text) || (option === undefined && SERVICE_LINK.test(variable))) continue
    if (option !== undefined) {
      setIn(tree, option.name, fromText(text, option.schema))
      origins.set(option.name, variable)
    } else {
      const expected = `the name of an option${suggestion(variable, [...byVariable.keys()])}`
      faults.push({ option: '', source: 'environment', expected, given: variable })
    }
  }
}

/** Text from a variable or a flag as the type of its option; what does not fit stays text and is a fault. */
function fromText(text: string, schema: OptionSchema): unknown {
  const isText = schema.type === 'string' || (schema.enum?.every(value => typeof value === 'string') ?? false)
  if (isText) return text
  try {
    const value: unknown = parseYaml(text)
    const isListOfText = schema.type === 'array' && schema.items?.type === 'string'
    return isListOfText && typeof value === 'string' ? value.split(',').map(item => item.trim()) : value
  } catch {
    return text
  }
}

/** Replaces each `…File` twin of a secret by what the file holds; answers the names of all secrets. */
function readSecretFiles(
  options: readonly Option[],
  tree: Tree,
  origins: Map<string, string>,
  faults: Fault[],
): ReadonlySet<string> {
  const secrets = new Set<string>()
  for (const { name, schema } of options) {
    if (!schema.secret) continue
    secrets.add(name)
    const twin = `${name}File`
    const file = getIn(tree, twin)
    if (typeof file !== 'string') continue
    const source = origins.get(twin) ?? ''
    if (getIn(tree, name) !== undefined) {
      faults.push({ option: twin, source, expected: `this or ${name}, not both`, given: file })
      continue
    }
    try {
      setIn(tree, name, readFileSync(file, 'utf8').trim())
      origins.set(name, `${source}: ${file}`)
    } catch (error) {
      faults.push({ option: twin, source, expected: 'a file that can be read', given: reasonOf(error) })
    }
  }
  return secrets
}

function invalidValues(
  tree: Tree,
  options: readonly Option[],
  origins: ReadonlyMap<string, string>,
  secrets: ReadonlySet<string>,
): Fault[] {
  const faults = new Map<string, Fault>()
  for (const { instancePath } of Value.Errors(ConfigSchema, tree)) {
    const path = instancePath.split('/').slice(1)
    const name = path.join('.')
    const option = options.find(candidate => name === candidate.name || name.startsWith(`${candidate.name}.`))
    if (option === undefined || faults.has(option.name)) continue
    faults.set(option.name, {
      option: option.name,
      source: origins.get(option.name) ?? '',
      expected: expectation(option.schema),
      given: givenFor(option, getIn(tree, option.name), path.slice(option.name.split('.').length), secrets),
    })
  }
  return [...faults.values()]
}

/** The wrong value for people: of a list the wrong item, of a secret nothing but its kind. */
function givenFor(
  option: Option,
  value: unknown,
  below: readonly string[],
  secrets: ReadonlySet<string>,
): string {
  const shown = secrets.has(option.name) ? '********' : show(value)
  if (option.schema.type === 'string' && typeof value === 'number') return `${shown}, a number: quote it`
  const [index] = below
  if (!Array.isArray(value) || index === undefined) return shown
  return `${show(value[Number(index)])} as item ${Number(index) + 1}`
}

/** The options without which `serve` cannot begin, where nothing gives them. */
function missingValues(tree: Tree, options: readonly Option[]): Fault[] {
  return options
    .filter(({ name }) => REQUIRED.has(name) && getIn(tree, name) === undefined)
    .map(({ name, variable, schema }) => ({
      option: name,
      source: '',
      expected: `${expectation(schema)} (--upstream, ${variable}, or the file)`,
      given: 'nothing',
    }))
}

/** Every section, and every option that has a default. */
function defaults(): Tree {
  const tree: Tree = {}
  const { options, sections } = describe()
  for (const { name } of sections) if (name !== '') setIn(tree, name, {})
  for (const { name, schema } of options) {
    if (schema.default !== undefined) setIn(tree, name, structuredClone(schema.default))
  }
  return tree
}

/**
 * The configuration, with the default of each option that is wrong itself: so what is wrong between options
 * is named in the same go.
 */
function healed(tree: Tree, wrong: ReadonlySet<string>): Config {
  const valid = defaults()
  setIn(valid, 'upstream.url', 'http://localhost')
  for (const { name } of describe().options) {
    const value = getIn(tree, name)
    if (value !== undefined && !wrong.has(name)) setIn(valid, name, value)
  }
  return Value.Parse(ConfigSchema, valid)
}

/** What no single option's schema can say. */
function contradictions(config: Config, origins: ReadonlyMap<string, string>): Fault[] {
  const faults: Fault[] = []
  const fault = (option: string, expected: string, given: string) => {
    faults.push({ option, source: origins.get(option) ?? '', expected, given })
  }
  const { retryAfter, recovery, server, upstream } = config
  if (retryAfter.minSeconds > retryAfter.maxSeconds) {
    fault(
      'retryAfter.minSeconds',
      `at most retryAfter.maxSeconds (${retryAfter.maxSeconds})`,
      `${retryAfter.minSeconds}`,
    )
  }
  if (recovery.initialConcurrency > recovery.maxConcurrency) {
    const expected = `at most recovery.maxConcurrency (${recovery.maxConcurrency})`
    fault('recovery.initialConcurrency', expected, `${recovery.initialConcurrency}`)
  }
  const { certFile, keyFile } = server.tls
  if (certFile !== undefined && keyFile === undefined) {
    fault('server.tls.keyFile', 'the key that belongs to server.tls.certFile', 'nothing')
  }
  if (keyFile !== undefined && certFile === undefined) {
    fault('server.tls.certFile', 'the certificate that belongs to server.tls.keyFile', 'nothing')
  }
  const certificate = readPem(certFile, isCertificate)
  const key = readPem(keyFile, text => text.includes('PRIVATE KEY'))
  if (certificate.problem) fault('server.tls.certFile', 'a PEM file with a certificate', certificate.problem)
  if (key.problem) fault('server.tls.keyFile', 'a PEM file with a private key', key.problem)
  if (certificate.text !== undefined && key.text !== undefined) {
    try {
      createSecureContext({ cert: certificate.text, key: key.text })
    } catch (error) {
      fault('server.tls.keyFile', 'the key that belongs to server.tls.certFile', reasonOf(error))
    }
  }
  const authorities = readPem(upstream.tls.caFile, isCertificate)
  if (authorities.problem) fault('upstream.tls.caFile', 'a PEM file with certificates', authorities.problem)
  return faults
}

type Pem = { readonly text?: string; readonly problem?: string }

function readPem(file: string | undefined, isRight: (text: string) => boolean): Pem {
  if (file === undefined) return {}
  try {
    const text = readFileSync(file, 'utf8')
    return isRight(text) ? { text } : { problem: `${file}, which holds none` }
  } catch (error) {
    return { problem: reasonOf(error) }
  }
}

function isCertificate(text: string): boolean {
  try {
    new X509Certificate(text)
    return true
  } catch {
    return false
  }
}

function isUpstreamUrl(text: string): boolean {
  // URL() repairs more than what may be shown safely: white space, backslashes, missing slashes.
  return /^https?:\/\/[^\s\\?#]+$/i.test(text) && URL.canParse(text)
}

/** ` (did you mean probe.periodMs?)` when one of the names is near, else nothing. */
export function suggestion(given: string, names: readonly string[]): string {
  const own = (name: string) => name.toLowerCase().replace(PREFIX.toLowerCase(), '')
  const wanted = own(given)
  const near = names
    .map(name => ({
      name,
      distance: editDistance(wanted, own(name)),
      isTail: /[._]/.test(own(name).at(-wanted.length - 1) ?? '') && own(name).endsWith(wanted),
    }))
    .filter(({ name, distance, isTail }) => isTail || distance <= Math.max(2, own(name).length / 4))
    .sort((a, b) => a.distance - b.distance)[0]
  return near === undefined ? '' : ` (did you mean ${near.name}?)`
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const substituted = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)
      next.push(Math.min(substituted, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1))
    }
    row = next
  }
  return row[b.length] ?? 0
}

function isTree(value: unknown): value is Tree {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function getIn(tree: Tree, name: string): unknown {
  let value: unknown = tree
  for (const key of name.split('.')) value = isTree(value) ? value[key] : undefined
  return value
}

function setIn(tree: Tree, name: string, value: unknown): void {
  const keys = name.split('.')
  const last = keys.pop()
  let parent = tree
  for (const key of keys) {
    const child = parent[key]
    const next: Tree = isTree(child) ? child : {}
    parent[key] = next
    parent = next
  }
  if (last !== undefined) parent[last] = value
}

/** A wrong value for people; of what may be credentials only the part behind them. */
function show(value: unknown): string {
  const text = JSON.stringify(value, (_, part) =>
    typeof part === 'string' ? part.replace(/^.*@/s, '***@') : part,
  )
  return text.length > 120 ? `${text.slice(0, 117)}…` : text
}

/** What stands in place of a group, without any text: it may be a secret. */
function kindOf(value: unknown): string {
  if (Array.isArray(value)) return 'a list'
  return typeof value === 'string' ? 'a text' : String(value)
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
