import { randomBytes, X509Certificate } from 'node:crypto'
import {
  closeSync,
  existsSync,
  fsyncSync,
  openSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { dirname } from 'node:path'
import { type Fault, reasonOf } from '../config/fault.js'
import { problemOfReading, readText } from '../config/read-text.js'
import type { Config } from '../config/schema.js'
import { readYaml } from '../config/yaml.js'
import { parseDeclaredOverride } from '../domain/override.js'
import { type Instant, rfc3339 } from '../domain/time.js'
import { MAX_READ_BYTES } from '../outages/file.js'
import { HistoryLock } from '../outages/history-lock.js'
import { HISTORY_VERSION, parseHistory } from '../outages/history-text.js'

/** What `--check-config` finds in the files that a valid configuration names. */
export type FileChecks = {
  readonly faults: readonly Fault[]
  /** What works now, and may not be what was meant. */
  readonly warnings: readonly string[]
}

/**
 * Checks what only the file system knows: whether the history can be written, by writing beside it, whether each
 * certificate is valid now, and what `override.file` holds. It leaves nothing behind, and changes no file.
 *
 * Files that hold a part of the configuration were read when it was loaded: secrets, certificates and keys.
 */
export function checkFiles(
  { history, override, replicas, server, upstream }: Config,
  origins: ReadonlyMap<string, string>,
  now: Instant,
): FileChecks {
  const faults: Fault[] = []
  const warnings: string[] = []
  const check = (option: string, expected: string, find: () => string | undefined) => {
    const given = find()
    if (given !== undefined) faults.push({ option, source: origins.get(option) ?? '', expected, given })
  }
  const warn = (option: string, words: string | undefined) => {
    if (words !== undefined) warnings.push(`${option}: ${words}`)
  }
  const { file: historyFile } = history
  if (historyFile !== undefined) {
    check('history.file', 'a file that can be written, in a directory that can be', () => {
      return problemOfWriting(historyFile) ?? problemOfWriting(`${historyFile}.notifications`)
    })
    warn('history.file', warningAboutHistory(historyFile))
    warn('history.file', warningAboutHolder(historyFile, now))
  }
  const { file: overrideFile } = override
  if (overrideFile !== undefined) {
    check('override.file', 'a file with state, reason and until, or none', () =>
      problemOfOverride(overrideFile, now),
    )
    warn('override.file', warningAboutOverride(overrideFile, now))
  }
  for (const [option, file] of [
    ['server.tls.certFile', server.tls.certFile],
    ['server.tls.clientCaFile', server.tls.clientCaFile],
    ['upstream.tls.certFile', upstream.tls.certFile],
    ['upstream.tls.caFile', upstream.tls.caFile],
    ['replicas.caFile', replicas.caFile],
  ] as const) {
    if (file === undefined) continue
    check(option, 'a PEM file of which every certificate can be read', () => problemOfCertificates(file))
    for (const words of warningsAboutCertificates(file, now)) warn(option, words)
  }
  return { faults, warnings }
}

/** Why a file cannot be written, or replaced by a new one beside it; undefined when both were tried and worked. */
function problemOfWriting(file: string): string | undefined {
  try {
    let target = file
    if (existsSync(file)) {
      target = realpathSync(file)
      if (!statSync(target).isFile()) return `${file}, which is not a regular file`
      closeSync(openSync(target, 'r+'))
    }
    // The name is that of the program's own temporary files, so that it clears away one that a kill leaves.
    const trial = `${target}.${randomBytes(8).toString('hex')}.new`
    const descriptor = openSync(trial, 'wx', 0o600)
    try {
      writeFileSync(descriptor, 'x'.repeat(4096))
      fsyncSync(descriptor)
    } finally {
      closeSync(descriptor)
      rmSync(trial, { force: true })
    }
    return undefined
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : reasonOf(error)
    const where = existsSync(dirname(file)) ? file : `${file}, whose directory does not exist`
    return `${where} (${code})`
  }
}

/** Why the history in a file that can be written is not gone on with, if it is not. */
function warningAboutHistory(file: string): string | undefined {
  let text: string
  try {
    if (statSync(file).size > MAX_READ_BYTES)
      return `${file} is too large for a history, and is left as it is`
    text = readFileSync(file, 'utf8')
  } catch {
    // A new one, or one that is a fault already.
    return undefined
  }
  const { version = 1, isForeign } = parseHistory(text)
  if (isForeign) return `${file} holds something else than a history, and is left as it is`
  if (version <= HISTORY_VERSION) return undefined
  return `${file} has version ${version}, and this program writes ${HISTORY_VERSION}: it is left as it is`
}

/** Which process writes the file now: it may be the one that this configuration is for. */
function warningAboutHolder(file: string, now: Instant): string | undefined {
  const holder = new HistoryLock({ file, clock: () => now }).check()
  if (holder === undefined) return undefined
  const { pid, host } = holder
  const who = host === '' ? 'another process' : `process ${pid} on ${host}`
  return `${who} writes ${file} now: a second one keeps its history in memory until that one has stopped`
}

function problemOfOverride(file: string, now: Instant): string | undefined {
  if (!existsSync(file)) return undefined
  const read = readText(file)
  if (!read.ok) return `${file}, which ${read.problem}`
  const yaml = readYaml(read.text)
  if (!yaml.ok) {
    const problems = yaml.problems.map(
      ({ position, expected, given }) => `${position} ${given}, not ${expected}`,
    )
    return `${file}: ${problems.join('; ')}`
  }
  const parsed = parseDeclaredOverride(yaml.value, now)
  return parsed.ok ? undefined : `${file}: ${parsed.faults.join('; ')}`
}

function warningAboutOverride(file: string, now: Instant): string | undefined {
  if (!existsSync(file)) return `${file} does not exist, so no override is declared`
  const read = readText(file)
  const yaml = read.ok ? readYaml(read.text) : undefined
  const parsed = yaml?.ok === true ? parseDeclaredOverride(yaml.value, now) : undefined
  if (parsed?.ok !== true) return undefined
  const { state, until } = parsed.override
  return until <= now
    ? `the override of ${file} ended at ${rfc3339(until)}`
    : `an override in ${file} forces the circuit ${state} until ${rfc3339(until)}`
}

const CERTIFICATE =
  /-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----[\s\S]*?-----END (?:X509 |TRUSTED )?CERTIFICATE-----/g

/** OpenSSL reads a list of authorities up to the first that is broken, without a word. */
function problemOfCertificates(file: string): string | undefined {
  const parts = partsOf(file)
  if (typeof parts === 'string') return parts
  const broken = parts.findIndex(part => certificateOf(part) === undefined)
  return broken < 0 ? undefined : `${file}, whose certificate ${broken + 1} is broken`
}

function warningsAboutCertificates(file: string, now: Instant): readonly string[] {
  const parts = partsOf(file)
  if (typeof parts === 'string') return []
  return parts.flatMap((part, index) => {
    const certificate = certificateOf(part)
    if (certificate === undefined) return []
    const which = parts.length === 1 ? `the certificate of ${file}` : `certificate ${index + 1} of ${file}`
    const { validFrom, validTo } = certificate
    if (Date.parse(validTo) < now) return [`${which} expired at ${rfc3339(Date.parse(validTo))}`]
    if (Date.parse(validFrom) > now) return [`${which} is not valid before ${rfc3339(Date.parse(validFrom))}`]
    return []
  })
}

function partsOf(file: string): readonly string[] | string {
  try {
    return readFileSync(file, 'utf8').match(CERTIFICATE) ?? []
  } catch (error) {
    return `${file}, which ${problemOfReading(error)}`
  }
}

function certificateOf(pem: string): X509Certificate | undefined {
  try {
    return new X509Certificate(pem)
  } catch {
    return undefined
  }
}
