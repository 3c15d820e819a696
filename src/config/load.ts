import { X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createSecureContext } from 'node:tls'
import * as Format from 'typebox/format'
import { Settings } from 'typebox/system'
import { Value } from 'typebox/value'
import { isNode, LineCounter, parseDocument, parse as parseYaml } from 'yaml'
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
 * What Kubernetes puts into every pod's environment for a Service named `focus-breaker`
 * (https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables).
 */
const SERVICE_LINK = /^FOCUS_BREAKER_(SERVICE_HOST$|SERVICE_PORT|PORT$|PORT_\d+_)/

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
  if (file !== undefined) mergeFile(file, tree, origins, faults)
  mergeEnvironment(sources.environment, options, tree, origins, faults)
  for (const [name, { flag, value }] of sources.flags ?? []) {
    const option = options.find(candidate => candidate.name === name)
    if (option === undefined) continue
    setIn(tree, name, fromText(value, option.schema))
    origins.set(name, flag)
  }
  const secrets = readSecretFiles(options, tree, origins, faults)
  const invalid = Value.Check(ConfigSchema, tree) ? [] : invalidValues(tree, options, origins, secrets)
  faults.push(...invalid)
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
  const shown: Tree = structuredClone<Tree>({ ...config })
  for (const { name, schema } of describe().options) {
    const value = getIn(shown, name)
    if (typeof value !== 'string') continue
    if (schema.secret) setIn(shown, name, '********')
    else setIn(shown, name, withoutCredentials(value))
  }
  return shown
}

/** `http://user:secret@host/` → `http://***@host/`; any other text as it is. */
export function withoutCredentials(text: string): string {
  return text.replace(/^([a-z][a-z0-9+.-]*:\/\/)[^/?#]*@/i, '$1***@')
}

function mergeFile(file: string, tree: Tree, origins: Map<string, string>, faults: Fault[]): void {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    faults.push({ option: '', source: file, expected: 'a file that can be read', given: reasonOf(error) })
    return
  }
  const lines = new LineCounter()
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false })
  for (const error of document.errors) {
    const { line, col } = lines.linePos(error.pos[0])
    faults.push({ option: '', source: `${file}:${line}:${col}`, expected: 'YAML', given: error.message })
  }
  if (document.errors.length > 0) return
  const content: unknown = document.toJS()
  if (content === null || content === undefined) return
  if (!isTree(content)) {
    faults.push({ option: '', source: file, expected: 'groups of options', given: show(content) })
    return
  }
  const sourceOf = (name: string): string => {
    const node = document.getIn(name.split('.'), true)
    return isNode(node) && node.range ? `${file}:${lines.linePos(node.range[0]).line}` : file
  }
  mergeTree(content, '', tree, (name, value) => {
    origins.set(name, sourceOf(name))
    // `key:` without a value means that the option is not set, and its default holds.
    if (value !== null) setIn(tree, name, value)
  })
}

/** Visits what a file sets: each known option, and each unknown key as a value of its own. */
function mergeTree(
  from: Tree,
  prefix: string,
  into: Tree,
  set: (name: string, value: unknown) => void,
): void {
  for (const [key, value] of Object.entries(from)) {
    const name = prefix === '' ? key : `${prefix}.${key}`
    const isSection = describe().sections.some(section => section.name === name)
    if (isSection && value === null) continue
    if (isSection && isTree(value)) mergeTree(value, name, into, set)
    else set(name, value)
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
    if (!variable.startsWith(PREFIX) || variable === FILE_VARIABLE || text === undefined || text === '')
      continue
    const option = byVariable.get(variable)
    if (option !== undefined) {
      setIn(tree, option.name, fromText(text, option.schema))
      origins.set(option.name, variable)
    } else if (!SERVICE_LINK.test(variable)) {
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
    return parseYaml(text)
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
  const { sections } = describe()
  const faults = new Map<string, Fault>()
  const add = (fault: Fault) => {
    if (!faults.has(fault.option)) faults.set(fault.option, fault)
  }
  for (const { instancePath } of Value.Errors(ConfigSchema, tree)) {
    const path = instancePath.split('/').slice(1)
    const name = path.join('.')
    const option = options.find(candidate => name === candidate.name || name.startsWith(`${candidate.name}.`))
    if (option !== undefined) {
      const source = origins.get(option.name) ?? ''
      const given = getIn(tree, option.name)
      const shown = secrets.has(option.name) ? '********' : withoutCredentials(show(given))
      add({ option: option.name, source, expected: expectation(option.schema), given: shown })
      continue
    }
    const section = sections.find(candidate => candidate.name === name)
    if (section === undefined) {
      const names = [...options, ...sections].map(candidate => candidate.name).filter(known => known !== '')
      const expected = `the name of an option${suggestion(name, names)}`
      add({ option: name, source: origins.get(name) ?? '', expected, given: 'an unknown key' })
      continue
    }
    const value = name === '' ? tree : getIn(tree, name)
    if (value !== undefined && !isTree(value)) {
      add({
        option: name,
        source: origins.get(name) ?? '',
        expected: 'a group of options',
        given: show(value),
      })
      continue
    }
    for (const missing of options.filter(candidate => parentOf(candidate.name) === name)) {
      const isRequired = missing.name === 'upstream.url'
      if (!isRequired || getIn(tree, missing.name) !== undefined) continue
      const expected = `${expectation(missing.schema)} (--upstream, ${missing.variable}, or the file)`
      add({ option: missing.name, source: '', expected, given: 'nothing' })
    }
  }
  return [...faults.values()]
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
  if (!URL.canParse(text)) return false
  const { protocol, search, hash } = new URL(text)
  return (protocol === 'http:' || protocol === 'https:') && search === '' && hash === ''
}

/** `; did you mean probe.periodMs?` when one of the names is near, else nothing. */
function suggestion(given: string, names: readonly string[]): string {
  const near = names
    .map(name => ({ name, distance: editDistance(given.toLowerCase(), name.toLowerCase()) }))
    .filter(({ name, distance }) => distance <= Math.max(2, name.length / 4))
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

function parentOf(name: string): string {
  return name.slice(0, Math.max(0, name.lastIndexOf('.')))
}

function show(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value)
  return text.length > 120 ? `${text.slice(0, 117)}…` : text
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
