import { closeSync, openSync } from 'node:fs'
import { constants, devNull } from 'node:os'
import type { UpstreamFailureKind } from '../domain/vocabulary.js'

/** Why an exchange with the upstream failed; `words` is for people and holds no address. */
export type UpstreamFailure = {
  readonly kind: UpstreamFailureKind
  readonly words: string
}

/** The code of a reset that undici must not take for the end of a response. */
export const RESET = 'FOCUS_BREAKER_RESET'

const CLOSED = 'connection closed before the answer'
const NO_NAME = 'its name did not resolve'
const NO_ROUTE = 'no route to it'

const EXHAUSTED: UpstreamFailure = {
  kind: 'connection_limit_reached',
  words: 'this machine has no descriptor, port or memory left for a connection',
}

const BY_CODE: ReadonlyMap<string, UpstreamFailure> = new Map(
  Object.entries({
    ECONNREFUSED: { kind: 'connection_refused', words: 'connection refused' },
    ECONNRESET: { kind: 'connection_terminated', words: CLOSED },
    EPIPE: { kind: 'connection_terminated', words: CLOSED },
    UND_ERR_SOCKET: { kind: 'connection_terminated', words: CLOSED },
    UND_ERR_CLOSED: { kind: 'connection_terminated', words: CLOSED },
    UND_ERR_DESTROYED: { kind: 'connection_terminated', words: CLOSED },
    UND_ERR_CONNECT_TIMEOUT: { kind: 'connection_timeout', words: 'no connection in time' },
    ETIMEDOUT: { kind: 'connection_timeout', words: 'no connection in time' },
    UND_ERR_HEADERS_TIMEOUT: { kind: 'http_response_timeout', words: 'no answer in time' },
    UND_ERR_BODY_TIMEOUT: { kind: 'http_response_timeout', words: 'no complete answer in time' },
    FOCUS_BREAKER_STATUS: { kind: 'http_protocol_error', words: 'its status is none of HTTP' },
    FOCUS_BREAKER_FRAMING: {
      kind: 'http_protocol_error',
      words: 'its body has a length or a transfer coding that cannot be passed on',
    },
    [RESET]: { kind: 'connection_terminated', words: CLOSED },
    FOCUS_BREAKER_INTERIM: { kind: 'http_protocol_error', words: 'too many interim responses' },
    EHOSTUNREACH: { kind: 'destination_ip_unroutable', words: NO_ROUTE },
    ENETUNREACH: { kind: 'destination_ip_unroutable', words: NO_ROUTE },
    EHOSTDOWN: { kind: 'destination_ip_unroutable', words: NO_ROUTE },
    ENETDOWN: { kind: 'destination_ip_unroutable', words: NO_ROUTE },
    ENONET: { kind: 'destination_ip_unroutable', words: NO_ROUTE },
    EACCES: { kind: 'destination_ip_prohibited', words: 'this machine does not permit the connection' },
    EPERM: { kind: 'destination_ip_prohibited', words: 'this machine does not permit the connection' },
    EMFILE: EXHAUSTED,
    ENFILE: EXHAUSTED,
    ENOBUFS: EXHAUSTED,
    ENOMEM: EXHAUSTED,
    ENOSR: EXHAUSTED,
    EAI_MEMORY: EXHAUSTED,
    // No free local port for a new connection.
    EADDRNOTAVAIL: EXHAUSTED,
    UND_ERR_HEADERS_OVERFLOW: {
      kind: 'http_response_header_section_size',
      words: 'the head of its answer exceeds upstream.maxHeaderBytes',
    },
    EPROTO: { kind: 'tls_protocol_error', words: 'TLS failed' },
  } as const),
)

/** The error for a response with a status that is none of HTTP (RFC 9110, 15). */
export function statusError(statusCode: number): Error {
  const error = new Error(`the upstream answered with status ${statusCode}`)
  return Object.assign(error, { code: 'FOCUS_BREAKER_STATUS' })
}

/** The error for a response whose body cannot be passed on as it is framed (RFC 9112, 6). */
export function framingError(): Error {
  return Object.assign(
    new Error("the response's body is framed in another way than by a length or chunked"),
    {
      code: 'FOCUS_BREAKER_FRAMING',
    },
  )
}

/** The error for a response that never comes, behind one interim response after the other. */
export function interimError(): Error {
  return Object.assign(new Error('the upstream sent too many interim responses'), {
    code: 'FOCUS_BREAKER_INTERIM',
  })
}

/** OpenSSL's verification errors as Node names them: https://nodejs.org/api/tls.html#x509-certificate-error-codes. */
const CERTIFICATE_CODE = /CERT|SELF_SIGNED|UNABLE_TO_|INVALID_CA|INVALID_PURPOSE|HOSTNAME_MISMATCH|CRL_/

/** Whether an exchange failed for want of something on this machine, which says nothing about the upstream. */
export function isLocal({ kind }: UpstreamFailure): boolean {
  return kind === EXHAUSTED.kind
}

/**
 * The meaning of an error of undici, `node:net`, `node:dns` or `node:tls`, found in the error or its causes.
 * An unknown error is `proxy_internal_error`: a fault of this program.
 */
export function failureOf(error: unknown): UpstreamFailure {
  for (let current = error; current instanceof Error; current = current.cause) {
    const code = 'code' in current && typeof current.code === 'string' ? current.code : ''
    // Node tries every address of a name and collects the errors; its own code is only that of the first.
    if (current instanceof AggregateError && current.errors.length > 0) return failureOfAll(current.errors)
    const known = BY_CODE.get(code)
    if (known !== undefined) return known
    // Without a descriptor the resolver reports that it found no name.
    if (/^(EAI_|ENOTFOUND$)/.test(code)) return canOpen() ? { kind: 'dns_error', words: NO_NAME } : EXHAUSTED
    if (CERTIFICATE_CODE.test(code)) {
      return { kind: 'tls_certificate_error', words: 'its certificate was not accepted' }
    }
    if (/^ERR_(SSL|TLS)/.test(code)) return { kind: 'tls_protocol_error', words: 'TLS failed' }
    if (/^(HPE_|UND_ERR_RES|UND_ERR_RESPONSE)/.test(code) || current.name === 'HTTPParserError') {
      return { kind: 'http_protocol_error', words: 'its answer was not HTTP' }
    }
    // Whatever else the operating system reports is a failure of the connection, not a fault of this program.
    if ('syscall' in current || Object.hasOwn(constants.errno, code)) {
      return { kind: 'connection_terminated', words: 'the connection failed' }
    }
  }
  return { kind: 'proxy_internal_error', words: 'an unexpected error' }
}

/**
 * Why no address of a name could be reached. An address that could not be tried for want of descriptors might have
 * been the right one. One that this machine has no address of its own for (IPv6 where there is none) says less than
 * the others.
 */
function failureOfAll(errors: readonly unknown[]): UpstreamFailure {
  const isWithoutAddress = (error: unknown) =>
    error instanceof Error && 'code' in error && error.code === 'EADDRNOTAVAIL'
  const telling = errors.filter(error => !isWithoutAddress(error)).map(failureOf)
  return telling.find(isLocal) ?? telling[0] ?? EXHAUSTED
}

/** Whether a descriptor is free at this moment. */
function canOpen(): boolean {
  try {
    closeSync(openSync(devNull, 'r'))
    return true
  } catch {
    return false
  }
}
