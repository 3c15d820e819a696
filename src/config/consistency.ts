import { X509Certificate } from 'node:crypto'
import { METHODS } from 'node:http'
import { hostname } from 'node:os'
import { createSecureContext } from 'node:tls'
import { guardablePath } from '../domain/guarded-route.js'
import { headerValueIn, isProbeHeader } from '../domain/header-value.js'
import { defaultNamespace, REPLICA_WORD } from '../domain/redis-url.js'
import { REFUSED_METHODS } from '../domain/vocabulary.js'
import { type Fault, reasonOf } from './fault.js'
import { readText } from './read-text.js'
import type { Config } from './schema.js'

/** Faults that the schema of a single option cannot express. */
export function contradictions(config: Config, origins: ReadonlyMap<string, string>): Fault[] {
  const faults: Fault[] = []
  const fault = (option: string, expected: string, given: string) => {
    faults.push({ option, source: origins.get(option) ?? '', expected, given })
  }
  const { notify, probe, replicas, retryAfter, recovery, server, upstream } = config
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
  for (const [index, { method, path }] of config.guard.routes.entries()) {
    const item = `as item ${index + 1}`
    const expected = guardablePath(path)
    if (expected !== undefined) fault('guard.routes', expected, `${JSON.stringify(path)} ${item}`)
    if (!METHODS.includes(method) || REFUSED_METHODS.includes(method)) {
      fault('guard.routes', 'a method that is forwarded, such as POST', `${method} ${item}`)
    }
  }
  const webhookProblem = problemOfWebhooks(notify.webhooks)
  if (webhookProblem !== undefined) fault('notify.webhooks', ...webhookProblem)
  if (server.healthPort === server.port && server.port !== 0) {
    fault('server.healthPort', 'a port other than server.port', `${server.healthPort}`)
  }
  for (const [side, { certFile, keyFile }] of [
    ['server', server.tls],
    ['upstream', upstream.tls],
  ] as const) {
    const certificate = readPart(certFile, isCertificate)
    const key = readPart(keyFile, text => text.includes('PRIVATE KEY'))
    if (certFile !== undefined && keyFile === undefined) {
      fault(`${side}.tls.keyFile`, `the private key of ${side}.tls.certFile`, 'nothing')
    }
    if (keyFile !== undefined && certFile === undefined) {
      fault(`${side}.tls.certFile`, `the certificate of ${side}.tls.keyFile`, 'nothing')
    }
    if (certificate.problem)
      fault(`${side}.tls.certFile`, 'a PEM file with a certificate', certificate.problem)
    if (key.problem) fault(`${side}.tls.keyFile`, 'a PEM file with a private key', key.problem)
    if (certificate.text === undefined || key.text === undefined) continue
    try {
      createSecureContext({ cert: certificate.text, key: key.text })
    } catch (error) {
      fault(`${side}.tls.keyFile`, `the private key of ${side}.tls.certFile`, reasonOf(error))
    }
  }
  for (const [option, file] of [
    ['upstream.tls.caFile', upstream.tls.caFile],
    ['server.tls.clientCaFile', server.tls.clientCaFile],
    ['replicas.caFile', replicas.caFile],
  ] as const) {
    const { problem } = readPart(file, isCertificate)
    if (problem) fault(option, 'a PEM file with certificates', problem)
  }
  const names = Object.keys(probe.headers).map(name => name.toLowerCase())
  for (const [index, [name, value]] of Object.entries(probe.headers).entries()) {
    if (!isProbeHeader(name)) {
      fault('probe.headers', 'names of headers that may be set for probes', JSON.stringify(name))
    } else if (names.indexOf(name.toLowerCase()) < index) {
      fault('probe.headers', 'each name once', JSON.stringify(name))
    } else if (typeof value !== 'string') {
      const problem = problemOfHeader(value.file)
      if (problem !== undefined) fault('probe.headers', `a file with the value of ${name}`, problem)
    }
  }
  if (server.tls.clientCaFile !== undefined && server.tls.certFile === undefined) {
    fault('server.tls.clientCaFile', 'to be used with server.tls.certFile', 'without it')
  }
  if (replicas.caFile !== undefined && !/^rediss:/i.test(replicas.url ?? '')) {
    const given = replicas.url === undefined ? 'without one' : 'with redis://, which is not encrypted'
    fault('replicas.caFile', 'to be used with a replicas.url that starts with rediss://', given)
  }
  if (replicas.url !== undefined) {
    const { namespace = defaultNamespace(upstream.url), name = hostname() } = replicas
    // The schema has already checked values that are set.
    for (const [option, derived, from] of [
      ['replicas.namespace', namespace, 'upstream.url'],
      ['replicas.name', name, 'the host name'],
    ] as const) {
      if (new RegExp(REPLICA_WORD).test(derived)) continue
      const expected = `to be set, because ${from} is not 1 to 100 letters, digits and . _ : -`
      fault(option, expected, 'nothing')
    }
  }
  return faults
}

/** Whether each part of a PEM file is complete. A file that is still being written may not be. */
export function isWholePem(text: string): boolean {
  const begins = text.match(/^-----BEGIN /gm)?.length ?? 0
  return begins > 0 && begins === text.match(/^-----END /gm)?.length
}

/**
 * The first fault of the webhooks, as the expected and the given value for people, without secrets; undefined if they
 * are valid.
 */
function problemOfWebhooks(
  webhooks: Config['notify']['webhooks'],
): readonly [expected: string, given: string] | undefined {
  const ids = webhooks.map(({ url, routingKey = '' }) => `${new URL(url).href}\n${routingKey}`)
  const again = ids.findIndex((id, index) => ids.indexOf(id) < index)
  if (again >= 0) return ['each URL once', `the URL of an earlier item in item ${again + 1}`]
  for (const [index, { format, routingKey, headers = {} }] of webhooks.entries()) {
    const item = `item ${index + 1}`
    if (format === 'pagerduty' && routingKey === undefined) {
      return ['the routingKey of a webhook of format pagerduty', `none in ${item}`]
    }
    if (format !== 'pagerduty' && routingKey !== undefined) {
      return ['a routingKey only with format pagerduty', `one with format ${format} in ${item}`]
    }
    const names = Object.keys(headers).map(name => name.toLowerCase())
    const reserved = names.find(name => RESERVED_HEADERS.has(name))
    if (reserved !== undefined) return ['no header that focus-breaker sets itself', `${reserved} in ${item}`]
    const twice = names.find((name, position) => names.indexOf(name) < position)
    if (twice !== undefined) return ['each header once', `${twice} twice in ${item}`]
  }
  return undefined
}

/** Connection headers, and headers that the notifier sets itself. */
const RESERVED_HEADERS: ReadonlySet<string> = new Set([
  ...['connection', 'content-length', 'content-type', 'expect', 'host', 'keep-alive', 'proxy-connection'],
  ...['te', 'trailer', 'transfer-encoding', 'upgrade'],
  ...['webhook-id', 'webhook-timestamp', 'webhook-signature'],
])

function problemOfHeader(file: string): string | undefined {
  return readPart(file, text => headerValueIn(text) !== undefined).problem
}

/** The text of a valid file, or the problem with it. */
type Part = { readonly text?: string; readonly problem?: string }

function readPart(file: string | undefined, isRight: (text: string) => boolean): Part {
  if (file === undefined) return {}
  const read = readText(file)
  if (!read.ok) return { problem: `${file}, which ${read.problem}` }
  return isRight(read.text) ? { text: read.text } : { problem: `${file}, which contains none` }
}

function isCertificate(text: string): boolean {
  try {
    new X509Certificate(text)
    return isWholePem(text)
  } catch {
    return false
  }
}
