import { isDeepStrictEqual } from 'node:util'
import * as Format from 'typebox/format'
import { Settings } from 'typebox/system'
import { Value } from 'typebox/value'
import { parseRedisUrl } from '../domain/redis-url.js'
import { contradictions } from './consistency.js'
import { type Fault, kindOf, PREFIX, show, suggestion, withoutCredentials } from './fault.js'
import { describe, expectation, type Option, type OptionSchema } from './options.js'
import { isPeer } from './peers.js'
import { readText } from './read-text.js'
import { type Config, ConfigSchema } from './schema.js'
import { getIn, isTree, setIn, type Tree } from './tree.js'
import { type EntryAt, readYaml } from './yaml.js'

/** A configuration, or everything that is wrong with it. */
export type Loaded =
  | {
      readonly ok: true
      readonly config: Config
      /** Where each value came from by its option: a flag, a variable, or the place in a file. Not the defaults. */
      readonly origins: ReadonlyMap<string, string>
    }
  | { readonly ok: false; readonly faults: readonly Fault[] }

/** Where the options come from. Flags beat the environment, which beats the file, which beats defaults. */
export type Sources = {
  /** Path of a YAML file. */
  readonly file?: string | undefined
  readonly environment: Readonly<Record<string, string | undefined>>
  /** Values by the option's dotted name, each with the flag it came from. */
  readonly flags?: ReadonlyMap<string, { readonly flag: string; readonly value: string }>
}

/** Where each value came from by its option, and how it is written, if reading might change it. */
type Origins = Map<string, { readonly source: string; readonly written?: string | undefined }>

/** The variable that names the file where no `--config` does. */
export const FILE_VARIABLE = `${PREFIX}CONFIG`
/**
 * What Kubernetes puts into every pod's environment for a Service named `focus-breaker` or `focus-breaker-…`
 * (https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables).
 */
const SERVICE_LINK =
  /^FOCUS_BREAKER_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)$/
const SERVICE_LINK_VALUE = /^(tcp|udp|sctp):\/\//

/** What our own clients read (clients/python): a job of CI may run them beside the proxy. */
const OF_CLIENTS: ReadonlySet<string> = new Set(['FOCUS_BREAKER_URL', 'FOCUS_BREAKER_TEST_RUN'])

/** Shorter secrets can be guessed. */
const MIN_SECRET_LENGTH = 16

/** The options that have no default and have to be given. */
const REQUIRED: ReadonlySet<string> = new Set(['upstream.url'])

/** What is shown of a secret. */
const MASK = '********'

Format.Set('upstream-url', isUpstreamUrl)
Format.Set('webhook-url', text => /^https?:\/\/[^\s\\#]+$/i.test(text) && URL.canParse(text))
Format.Set('webhook-secret', isWebhookSecret)
Format.Set('page-url', isPageUrl)
Format.Set('redis-url', text => parseRedisUrl(text).ok)
Format.Set('peer', isPeer)
// Faults are named all at once; a file of more than these is not a configuration.
Settings.Set({ maxErrors: 1000 })

/** Reads, merges and checks every source, and names every fault at once. */
export function load(sources: Sources): Loaded {
  const faults: Fault[] = []
  const origins: Origins = new Map()
  const tree = defaults()
  const { options } = describe()
  const file = sources.file ?? (sources.environment[FILE_VARIABLE] || undefined)
  const isFileRead = file === undefined || mergeFile(file, tree, origins, faults)
  mergeEnvironment(sources.environment, options, tree, origins, faults)
  for (const [name, { flag, value }] of sources.flags ?? []) {
    const option = options.find(candidate => candidate.name === name)
    if (option === undefined) continue
    setIn(tree, name, fromText(value, option.schema))
    origins.set(name, { source: flag, written: value })
  }
  const secrets = readSecretFiles(options, tree, origins, faults)
  trimSecrets(secrets, tree)
  if (!Value.Check(ConfigSchema, tree)) faults.push(...invalidValues(tree, options, origins, secrets))
  for (const { name } of options) {
    const value = getIn(tree, name)
    if (typeof value !== 'string' || !value.includes('\0') || faults.some(fault => fault.option === name))
      continue
    const source = origins.get(name)?.source ?? ''
    faults.push({ option: name, source, expected: 'text without NUL characters', given: 'one' })
  }
  // What a broken file would have said is not known.
  if (isFileRead) faults.push(...missingValues(tree, options))
  const named = new Set(faults.map(fault => fault.option))
  const config = healed(tree, named)
  const sourceOf = new Map([...origins].map(([name, { source }]) => [name, source]))
  faults.push(...contradictions(config, sourceOf).filter(({ option }) => !named.has(option)))
  return faults.length === 0 ? { ok: true, config, origins: sourceOf } : { ok: false, faults }
}

/** The secrets that were read from files: the option and its file. */
export function secretFiles(config: Config): readonly { readonly option: string; readonly file: string }[] {
  const all: Tree = { ...config }
  return describe().options.flatMap(({ name, schema }) => {
    const file = schema.secret === true ? getIn(all, `${name}File`) : undefined
    return typeof file === 'string' ? [{ option: name, file }] : []
  })
}

/** The configuration with another secret, as its file has it. @throws with a message that does not show the secret. */
export function withSecret(config: Config, name: string, text: string): Config {
  const option = describe().options.find(candidate => candidate.name === name)
  if (option === undefined) return config
  const tree: Tree = structuredClone({ ...config })
  setIn(tree, name, fromText(text.trim(), option.schema))
  const wanted = () => new Error(`${name}: expected ${expectation(option.schema)}`)
  if (!Value.Check(ConfigSchema, tree)) throw wanted()
  const next = Value.Parse(ConfigSchema, tree)
  if (contradictions(next, new Map()).some(fault => fault.option === name)) throw wanted()
  return next
}

/** The configuration as it may be shown: secrets and the credentials of URLs are masked. */
export function masked(config: Config): unknown {
  const shown: Tree = {}
  const all: Tree = { ...config }
  for (const { name, schema } of describe().options) {
    const value = getIn(all, name)
    if (value === undefined) continue
    const open = typeof value === 'string' ? withoutCredentials(value) : value
    // Of the address of Redis only user and password are secret.
    const isOpen = schema.secret !== true || schema.format === 'redis-url'
    setIn(shown, name, isOpen ? open : maskedSecret(value))
  }
  for (const { name } of describe().sections)
    if (name !== '' && getIn(shown, name) === undefined) setIn(shown, name, {})
  return shown
}

/**
 * What may be shown of a secret option: of webhooks their scheme and host, of headers their names and the files of their
 * values, of anything else nothing.
 */
function maskedSecret(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(maskedWebhook)
  if (!isTree(value)) return MASK
  return Object.fromEntries(
    Object.entries(value).map(([name, header]) => [name, isTree(header) ? header : MASK]),
  )
}

function maskedWebhook(value: unknown): unknown {
  if (!isTree(value) || typeof value.url !== 'string') return MASK
  const { url, format, ...others } = value
  const maskedOthers = Object.entries(others).map(([key, other]) => [key, maskedValues(other)])
  return { url: `${new URL(url).origin}/${MASK}`, format, ...Object.fromEntries(maskedOthers) }
}

/** Of a group the names, and of anything else nothing. */
function maskedValues(value: unknown): unknown {
  if (!isTree(value)) return MASK
  return Object.fromEntries(Object.keys(value).map(name => [name, MASK]))
}

/** Puts the options of a file into `tree`; false when nothing could be read of it. */
function mergeFile(file: string, tree: Tree, origins: Origins, faults: Fault[]): boolean {
  const fault = (source: string, expected: string, given: string) => {
    faults.push({ option: '', source, expected, given })
    return false
  }
  const read = readText(file)
  if (!read.ok) return fault(file, 'a file that can be read', `a file that ${read.problem}`)
  const yaml = readYaml(read.text)
  if (!yaml.ok) {
    for (const { position, expected, given } of yaml.problems) fault(placeIn(file, position), expected, given)
    return false
  }
  const content = yaml.value
  if (content === null || content === undefined) return true
  if (!isTree(content)) return fault(file, 'groups of options', kindOf(content))
  const entryAt = (keys: readonly string[]) => {
    const { position, number } = yaml.entryAt(keys)
    return { position: placeIn(file, position), number }
  }
  mergeTree(content, [], tree, origins, entryAt, faults)
  return true
}

function placeIn(file: string, position: string | undefined): string {
  return position ? `${file}:${position}` : file
}

/** Puts each known option of `from` into `tree`, and names everything else. */
function mergeTree(
  from: Tree,
  above: readonly string[],
  tree: Tree,
  origins: Origins,
  entryAt: EntryAt,
  faults: Fault[],
): void {
  const { options, sections } = describe()
  for (const [key, value] of Object.entries(from)) {
    const keys = [...above, key]
    const { position: source = '', number } = entryAt(keys)
    const name = keys.join('.')
    const isKnown = (candidate: { readonly name: string }) => !key.includes('.') && candidate.name === name
    if (options.some(isKnown)) {
      // `key:` without a value means that the option is not set, and its default holds.
      if (value === null) continue
      origins.set(name, { source, written: number })
      setIn(tree, name, value)
    } else if (!sections.some(isKnown)) {
      const names = [...options, ...sections].map(known => known.name).filter(known => known !== '')
      const expected = `the name of an option${suggestion(name, names)}`
      faults.push({ option: name, source, expected, given: 'an unknown key' })
    } else if (isTree(value)) {
      mergeTree(value, keys, tree, origins, entryAt, faults)
    } else if (value !== null) {
      faults.push({
        option: name,
        source,
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
  origins: Origins,
  faults: Fault[],
): void {
  const byVariable = new Map(options.map(option => [option.variable, option]))
  for (const [variable, text] of Object.entries(environment)) {
    // An empty variable is how Compose files and CI say that one is not set.
    if (!variable.startsWith(PREFIX) || variable === FILE_VARIABLE || !text?.trim()) continue
    const option = byVariable.get(variable)
    if (OF_CLIENTS.has(variable)) continue
    if (SERVICE_LINK_VALUE.test(text) || (option === undefined && SERVICE_LINK.test(variable))) continue
    if (option !== undefined) {
      setIn(tree, option.name, fromText(text, option.schema))
      origins.set(option.name, { source: variable, written: text.trim() })
    } else {
      const expected = `the name of an option${suggestion(variable, [...byVariable.keys()])}`
      faults.push({ option: '', source: 'environment', expected, given: variable })
    }
  }
}

function isText(schema: OptionSchema): boolean {
  return schema.type === 'string' || (schema.enum?.every(value => typeof value === 'string') ?? false)
}

/** Text from a variable or a flag as the type of its option; what does not fit stays text and is a fault. */
function fromText(text: string, schema: OptionSchema): unknown {
  if (isText(schema)) return text
  const yaml = readYaml(text)
  if (!yaml.ok) return text
  const { value } = yaml
  const isListOfText = schema.type === 'array' && schema.items?.type === 'string'
  return isListOfText && typeof value === 'string' ? value.split(',').map(item => item.trim()) : value
}

/** Replaces each `…File` twin of a secret by what the file holds; answers the names of all secrets. */
function readSecretFiles(
  options: readonly Option[],
  tree: Tree,
  origins: Origins,
  faults: Fault[],
): ReadonlySet<string> {
  const secrets = new Set<string>()
  for (const { name, schema } of options) {
    if (!schema.secret) continue
    secrets.add(name)
    const twin = `${name}File`
    const file = getIn(tree, twin)
    if (typeof file !== 'string') continue
    const source = origins.get(twin)?.source ?? ''
    if (!isDeepStrictEqual(getIn(tree, name), schema.default)) {
      faults.push({ option: twin, source, expected: `this or ${name}, not both`, given: file })
      continue
    }
    const read = readText(file)
    if (!read.ok) {
      const given = `${file}, which ${read.problem}`
      faults.push({ option: twin, source, expected: 'a file that can be read', given })
      continue
    }
    const text = read.text.trim()
    const yaml = isText(schema) ? undefined : readYaml(read.text)
    if (yaml?.ok === false) {
      for (const { position, expected, given } of yaml.problems)
        faults.push({ option: name, source: `${source}: ${placeIn(file, position)}`, expected, given })
      continue
    }
    setIn(tree, name, yaml === undefined ? text : yaml.value)
    origins.set(name, { source: `${source}: ${file}` })
  }
  return secrets
}

/** Takes the white space around secrets away, wherever they come from. Most tools end a secret with a newline. */
function trimSecrets(secrets: ReadonlySet<string>, tree: Tree): void {
  for (const name of secrets) {
    const value = getIn(tree, name)
    if (typeof value === 'string') setIn(tree, name, value.trim())
  }
}

function invalidValues(
  tree: Tree,
  options: readonly Option[],
  origins: Readonly<Origins>,
  secrets: ReadonlySet<string>,
): Fault[] {
  const faults = new Map<string, Fault>()
  for (const { instancePath } of Value.Errors(ConfigSchema, tree)) {
    const path = instancePath.split('/').slice(1)
    const name = path.join('.')
    const option = options.find(candidate => name === candidate.name || name.startsWith(`${candidate.name}.`))
    if (option === undefined || faults.has(option.name)) continue
    const { source = '', written } = origins.get(option.name) ?? {}
    const below = path.slice(option.name.split('.').length)
    faults.set(option.name, {
      option: option.name,
      source,
      expected: expectation(option.schema),
      given: givenFor(option, getIn(tree, option.name), below, secrets, written),
    })
  }
  return [...faults.values()]
}

/** The wrong value for people: of a list the wrong item, of a secret only what is wrong with it. */
function givenFor(
  option: Option,
  value: unknown,
  below: readonly string[],
  secrets: ReadonlySet<string>,
  written: string | undefined,
): string {
  const isSecret = secrets.has(option.name)
  const shownAs = (part: unknown) => (isSecret ? MASK : show(part))
  const [index, member] = below
  if (Array.isArray(value) && index !== undefined) {
    const where = `${member === undefined ? '' : `${member} of `}item ${Number(index) + 1}`
    return `${shownAs(value[Number(index)])} as ${where}`
  }
  if (typeof value === 'number') {
    // 1e400 and 9007199254740993 become other numbers when they are read.
    const shown = isSecret ? MASK : (written ?? show(value))
    return `${shown}${option.schema.type === 'string' ? ', a number: quote it' : ''}`
  }
  return `${shownAs(value)}${isSecret ? problemOfSecret(option.schema, value) : ''}`
}

/** What is wrong with a secret, where its schema lets that be said without showing it. */
function problemOfSecret({ format, pattern }: OptionSchema, value: unknown): string {
  if (format === 'redis-url' && typeof value === 'string') {
    const parsed = parseRedisUrl(value)
    return parsed.ok ? '' : `, with ${parsed.problem}`
  }
  return pattern === undefined ? '' : problemOfToken(value)
}

/** What is wrong with the characters of a token, without showing any of them. */
function problemOfToken(value: unknown): string {
  if (typeof value !== 'string' || value.length < MIN_SECRET_LENGTH) return ''
  if (/[^\P{White_Space} ]/u.test(value)) return ', with white space in the middle'
  if (/\s/.test(value)) return ', with a space in the middle'
  return /[^!-~]/.test(value) ? ', with a character that is not printable ASCII' : ''
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

/** https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md#signature-scheme */
function isWebhookSecret(text: string): boolean {
  const [, base64] = /^whsec_(.*)$/s.exec(text) ?? []
  if (base64 === undefined) return text.length >= MIN_SECRET_LENGTH
  const bytes = Buffer.from(base64, 'base64')
  // Node skips what is none.
  return (
    bytes.length >= MIN_SECRET_LENGTH &&
    bytes.toString('base64') === base64.padEnd(Math.ceil(base64.length / 4) * 4, '=')
  )
}

/** What a message may link to: it is shown to everyone in a channel, so there are no credentials in it. */
function isPageUrl(text: string): boolean {
  return /^https?:\/\/[^\s\\<>"|]+$/i.test(text) && URL.canParse(text) && !new URL(text).href.includes('@')
}

function isUpstreamUrl(text: string): boolean {
  // URL() repairs more than what may be shown safely: white space, backslashes, missing slashes.
  return /^https?:\/\/[^\s\\?#]+$/i.test(text) && URL.canParse(text)
}
