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

/** The problems that `--check-config` finds in the files that a valid configuration names. */
export type FileChecks = {
  readonly faults: readonly Fault[]
  /** Valid settings that may not be intended, such as an expired certificate. */
  readonly warnings: readonly string[]
}

/**
 * Checks what depends on the file system: whether the history file is writable (by writing a temporary file next to
 * it), whether each certificate is valid now, and the contents of `override.file`. It leaves nothing behind and changes
 * no file.
 *
 * Secrets, certificates and keys are part of the configuration and were read when it was loaded.
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
  const warn = (option: string, warning: string | undefined) => {
    if (warning !== undefined) warnings.push(`${option}: ${warning}`)
  }
  const { file: historyFile } = history
  if (historyFile !== undefined) {
    check('history.file', 'a writable file in a writable directory', () => {
      return problemOfWriting(historyFile) ?? problemOfWriting(`${historyFile}.notifications`)
    })
    warn('history.file', warningAboutHistory(historyFile))
    warn('history.file', warningAboutHolder(historyFile, now))
  }
  const { file: overrideFile } = override
  if (overrideFile !== undefined) {
    check('override.file', 'a file with state, reason and until, or no file', () =>
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
    check(option, 'a PEM file whose certificates are all valid PEM', () => problemOfCertificates(file))
    for (const warning of warningsAboutCertificates(file, now)) warn(option, warning)
  }
  return { faults, warnings }
}

/** Why a file cannot be written, or replaced by a new one in the same directory; undefined if both work. */
function problemOfWriting(file: string): string | undefined {
  try {
    let target = file
    if (existsSync(file)) {
      target = realpathSync(file)
      if (!statSync(target).isFile()) return `${file}, which is not a regular file`
      closeSync(openSync(target, 'r+'))
    }
    // The name has the form of the program's own temporary files, so that it cleans up one that a kill leaves behind.
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

/** Why the proxy would not continue the history in a writable file; undefined if it would. */
function warningAboutHistory(file: string): string | undefined {
  let text: string
  try {
    if (statSync(file).size > MAX_READ_BYTES)
      return `${file} is too large for a history file; it will not be used`
    text = readFileSync(file, 'utf8')
  } catch {
    // The file is new, or was already reported as a fault.
    return undefined
  }
  const { version = 1, isForeign } = parseHistory(text)
  if (isForeign) return `${file} is not a history file; it will not be used`
  if (version <= HISTORY_VERSION) return undefined
  return `${file} has format version ${version}, but this program supports up to ${HISTORY_VERSION}; it will not be used`
}

/** Which process is writing the file now. It may be the one that this configuration is for. */
function warningAboutHolder(file: string, now: Instant): string | undefined {
  const holder = new HistoryLock({ file, clock: () => now }).check()
  if (holder === undefined) return undefined
  const { pid, host } = holder
  const who = host === '' ? 'another process' : `process ${pid} on ${host}`
  return `${who} is writing ${file}; a second process keeps its history in memory until that one stops`
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
  if (!existsSync(file)) return `${file} does not exist, so it declares no override`
  const read = readText(file)
  const yaml = read.ok ? readYaml(read.text) : undefined
  const parsed = yaml?.ok === true ? parseDeclaredOverride(yaml.value, now) : undefined
  if (parsed?.ok !== true) return undefined
  const { state, until } = parsed.override
  return until <= now
    ? `the override in ${file} ended at ${rfc3339(until)}`
    : `an override in ${file} forces the circuit ${state} until ${rfc3339(until)}`
}

const CERTIFICATE =
  /-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----[\s\S]*?-----END (?:X509 |TRUSTED )?CERTIFICATE-----/g

/** OpenSSL silently stops reading a list of certificate authorities at the first invalid one. */
function problemOfCertificates(file: string): string | undefined {
  const parts = partsOf(file)
  if (typeof parts === 'string') return parts
  const broken = parts.findIndex(part => certificateOf(part) === undefined)
  return broken < 0 ? undefined : `${file}, whose certificate ${broken + 1} is invalid`
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
