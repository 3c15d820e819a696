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

/** A configuration, or all its faults. */
export type Loaded =
  | {
      readonly ok: true
      readonly config: Config
      /** Origin of each value by option name: a flag, a variable, or a position in a file. Defaults have no entry. */
      readonly origins: ReadonlyMap<string, string>
    }
  | { readonly ok: false; readonly faults: readonly Fault[] }

/**
 * The sources of options. Flags take precedence over the environment, the environment over the file, and the file over
 * the defaults.
 */
export type Sources = {
  /** Path of a YAML file. */
  readonly file?: string | undefined
  readonly environment: Readonly<Record<string, string | undefined>>
  /** Values by the dotted name of the option, each with the flag that it came from. */
  readonly flags?: ReadonlyMap<string, { readonly flag: string; readonly value: string }>
}

/** Origin of each value by option name, and the value as written, where parsing might change it. */
type Origins = Map<string, { readonly source: string; readonly written?: string | undefined }>

/** The variable with the path of the file, used if `--config` is not given. */
export const FILE_VARIABLE = `${PREFIX}CONFIG`
/**
 * Variables that Kubernetes sets in every pod for a Service named `focus-breaker` or `focus-breaker-…`
 * (https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables).
 */
const SERVICE_LINK =
  /^FOCUS_BREAKER_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)$/
const SERVICE_LINK_VALUE = /^(tcp|udp|sctp):\/\//

/** Variables of our own clients (clients/python). A CI job may run them together with the proxy. */
const OF_CLIENTS: ReadonlySet<string> = new Set(['FOCUS_BREAKER_URL', 'FOCUS_BREAKER_TEST_RUN'])

/** Shorter secrets can be guessed. */
const MIN_SECRET_LENGTH = 16

/** The options that have no default and are required. */
const REQUIRED: ReadonlySet<string> = new Set(['upstream.url'])

/** Shown instead of a secret. */
const MASK = '********'

Format.Set('upstream-url', isUpstreamUrl)
Format.Set('webhook-url', text => /^https?:\/\/[^\s\\#]+$/i.test(text) && URL.canParse(text))
Format.Set('webhook-secret', isWebhookSecret)
Format.Set('page-url', isPageUrl)
Format.Set('redis-url', text => parseRedisUrl(text).ok)
Format.Set('peer', isPeer)
// All faults are reported together. A file with more faults than this is not a configuration.
Settings.Set({ maxErrors: 1000 })

/** Reads, merges and checks all sources. Returns all faults together if there are any. */
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
    faults.push({ option: name, source, expected: 'text without NUL characters', given: 'a NUL character' })
  }
  // A file that cannot be read may set the required options.
  if (isFileRead) faults.push(...missingValues(tree, options))
  const named = new Set(faults.map(fault => fault.option))
  const config = healed(tree, named)
  const sourceOf = new Map([...origins].map(([name, { source }]) => [name, source]))
  faults.push(...contradictions(config, sourceOf).filter(({ option }) => !named.has(option)))
  return faults.length === 0 ? { ok: true, config, origins: sourceOf } : { ok: false, faults }
}

/** The secrets that were read from files: each option with its file. */
export function secretFiles(config: Config): readonly { readonly option: string; readonly file: string }[] {
  const all: Tree = { ...config }
  return describe().options.flatMap(({ name, schema }) => {
    const file = schema.secret === true ? getIn(all, `${name}File`) : undefined
    return typeof file === 'string' ? [{ option: name, file }] : []
  })
}

/**
 * The configuration with a new value of a secret. @throws if it is invalid, with a message that does not show the
 * secret.
 */
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

/** The configuration with secrets and the credentials of URLs masked, so that it may be shown. */
export function masked(config: Config): unknown {
  const shown: Tree = {}
  const all: Tree = { ...config }
  for (const { name, schema } of describe().options) {
    const value = getIn(all, name)
    if (value === undefined) continue
    const open = typeof value === 'string' ? withoutCredentials(value) : value
    // Only the user and password of the Redis URL are secret.
    const isOpen = schema.secret !== true || schema.format === 'redis-url'
    setIn(shown, name, isOpen ? open : maskedSecret(value))
  }
  for (const { name } of describe().sections)
    if (name !== '' && getIn(shown, name) === undefined) setIn(shown, name, {})
  return shown
}

/**
 * A secret option as it may be shown: webhooks with only their scheme and host, headers with their names and the files
 * of their values, and a mask for anything else.
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

/** Masks the values of a group but not their names; anything else is masked as a whole. */
function maskedValues(value: unknown): unknown {
  if (!isTree(value)) return MASK
  return Object.fromEntries(Object.keys(value).map(name => [name, MASK]))
}

/** Merges the options of a file into `tree`. Returns false if the file cannot be read. */
function mergeFile(file: string, tree: Tree, origins: Origins, faults: Fault[]): boolean {
  const fault = (source: string, expected: string, given: string) => {
    faults.push({ option: '', source, expected, given })
    return false
  }
  const read = readText(file)
  if (!read.ok) return fault(file, 'a readable file', `a file that ${read.problem}`)
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

/** Merges each known option of `from` into `tree`, and reports all other keys as faults. */
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
      // `key:` without a value means that the option is not set and has its default.
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
    // Compose files and CI systems set a variable to an empty text to unset it.
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

/**
 * Converts the text of a variable or flag to the type of its option. Text that does not fit stays text and becomes a
 * fault.
 */
function fromText(text: string, schema: OptionSchema): unknown {
  if (isText(schema)) return text
  const yaml = readYaml(text)
  if (!yaml.ok) return text
  const { value } = yaml
  const isListOfText = schema.type === 'array' && schema.items?.type === 'string'
  return isListOfText && typeof value === 'string' ? value.split(',').map(item => item.trim()) : value
}

/** Sets each secret from the file that its `…File` twin names. Returns the names of all secrets. */
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
      faults.push({ option: twin, source, expected: 'a readable file', given })
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

/** Trims white space around secrets from any source. Most tools end a secret with a newline. */
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

/** Describes an invalid value for people: the invalid item of a list, and for a secret only the problem. */
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
    // 1e400 and 9007199254740993 become other numbers when they are parsed.
    const shown = isSecret ? MASK : (written ?? show(value))
    return `${shown}${option.schema.type === 'string' ? ', a number: quote it' : ''}`
  }
  return `${shownAs(value)}${isSecret ? problemOfSecret(option.schema, value) : ''}`
}

/** The problem of an invalid secret, if it can be described without showing the secret. */
function problemOfSecret({ format, pattern }: OptionSchema, value: unknown): string {
  if (format === 'redis-url' && typeof value === 'string') {
    const parsed = parseRedisUrl(value)
    return parsed.ok ? '' : `, with ${parsed.problem}`
  }
  return pattern === undefined ? '' : problemOfToken(value)
}

/** The problem of the characters of a token, without showing any of them. */
function problemOfToken(value: unknown): string {
  if (typeof value !== 'string' || value.length < MIN_SECRET_LENGTH) return ''
  if (/[^\P{White_Space} ]/u.test(value)) return ', with white space in the middle'
  if (/\s/.test(value)) return ', with a space in the middle'
  return /[^!-~]/.test(value) ? ', with a character that is not printable ASCII' : ''
}

/** Faults for the required options that no source sets. */
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

/** All sections, and all options that have a default. */
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
 * The configuration with the default of each invalid option, so that contradictions between the other options are
 * reported together with the invalid ones.
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
  // Node skips characters that are not base64.
  return (
    bytes.length >= MIN_SECRET_LENGTH &&
    bytes.toString('base64') === base64.padEnd(Math.ceil(base64.length / 4) * 4, '=')
  )
}

/** The URL may not contain credentials, because messages show it to everyone in a channel. */
function isPageUrl(text: string): boolean {
  return /^https?:\/\/[^\s\\<>"|]+$/i.test(text) && URL.canParse(text) && !new URL(text).href.includes('@')
}

function isUpstreamUrl(text: string): boolean {
  // URL() accepts text that is not safe to show: white space, backslashes, missing slashes.
  return /^https?:\/\/[^\s\\?#]+$/i.test(text) && URL.canParse(text)
}
