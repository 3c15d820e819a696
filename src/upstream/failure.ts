import { closeSync, openSync } from 'node:fs'
import { constants, devNull } from 'node:os'
import type { UpstreamFailureKind } from '../domain/vocabulary.js'

/** Why an exchange with the upstream failed. `words` is for people and contains no address. */
export type UpstreamFailure = {
  readonly kind: UpstreamFailureKind
  readonly words: string
}

/** The code of a connection reset that undici must not take for the end of a response. */
export const RESET = 'FOCUS_BREAKER_RESET'

const CLOSED = 'connection closed before the response'
const NO_NAME = 'its name did not resolve'
const NO_ROUTE = 'no route to it'

const EXHAUSTED: UpstreamFailure = {
  kind: 'connection_limit_reached',
  words: 'this machine has no file descriptor, port or memory left for a connection',
}

const BY_CODE: ReadonlyMap<string, UpstreamFailure> = new Map(
  Object.entries({
    ECONNREFUSED: { kind: 'connection_refused', words: 'connection refused' },
    ECONNRESET: { kind: 'connection_terminated', words: CLOSED },
    EPIPE: { kind: 'connection_terminated', words: CLOSED },
    UND_ERR_SOCKET: { kind: 'connection_terminated', words: CLOSED },
    UND_ERR_CLOSED: { kind: 'connection_terminated', words: CLOSED },
    UND_ERR_DESTROYED: { kind: 'connection_terminated', words: CLOSED },
    UND_ERR_CONNECT_TIMEOUT: { kind: 'connection_timeout', words: 'connection timed out' },
    ETIMEDOUT: { kind: 'connection_timeout', words: 'connection timed out' },
    UND_ERR_HEADERS_TIMEOUT: { kind: 'http_response_timeout', words: 'no response in time' },
    UND_ERR_BODY_TIMEOUT: { kind: 'http_response_timeout', words: 'no complete response in time' },
    FOCUS_BREAKER_STATUS: { kind: 'http_protocol_error', words: 'its status code is not valid in HTTP' },
    FOCUS_BREAKER_FRAMING: {
      kind: 'http_protocol_error',
      words: 'its response body has a length or transfer coding that cannot be forwarded',
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
    // No local port is free for a new connection.
    EADDRNOTAVAIL: EXHAUSTED,
    UND_ERR_HEADERS_OVERFLOW: {
      kind: 'http_response_header_section_size',
      words: 'its response headers exceed upstream.maxHeaderBytes',
    },
  } as const),
)

/** The error for a response with a status code that HTTP does not allow (RFC 9110, 15). */
export function statusError(statusCode: number): Error {
  const error = new Error(`the upstream responded with the invalid status ${statusCode}`)
  return Object.assign(error, { code: 'FOCUS_BREAKER_STATUS' })
}

/** The error for a response whose body framing cannot be forwarded (RFC 9112, 6). */
export function framingError(): Error {
  return Object.assign(new Error('the response body is framed neither by a valid length nor by chunked'), {
    code: 'FOCUS_BREAKER_FRAMING',
  })
}

/** The error for an upstream that sends interim responses without end instead of a response. */
export function interimError(): Error {
  return Object.assign(new Error('the upstream sent too many interim responses'), {
    code: 'FOCUS_BREAKER_INTERIM',
  })
}

/** OpenSSL's verification errors as Node names them: https://nodejs.org/api/tls.html#x509-certificate-error-codes. */
const CERTIFICATE_CODE = /CERT|SELF_SIGNED|UNABLE_TO_|INVALID_CA|INVALID_PURPOSE|HOSTNAME_MISMATCH|CRL_/

const UNKNOWN_AUTHORITY = 'its certificate is from an unknown authority'

/** Why a certificate was rejected, by error code. */
const CERTIFICATE_WORDS: ReadonlyMap<string, string> = new Map([
  ['DEPTH_ZERO_SELF_SIGNED_CERT', 'its certificate is self-signed'],
  ['SELF_SIGNED_CERT_IN_CHAIN', 'its certificate chain ends at an authority that is not trusted'],
  ['CERT_UNTRUSTED', 'its certificate chain ends at an authority that is not trusted'],
  ['CERT_HAS_EXPIRED', 'its certificate has expired'],
  ['CERT_NOT_YET_VALID', 'its certificate is not valid yet'],
  ['ERR_TLS_CERT_ALTNAME_INVALID', 'its certificate is for another name'],
  ['HOSTNAME_MISMATCH', 'its certificate is for another name'],
  ['UNABLE_TO_GET_ISSUER_CERT', UNKNOWN_AUTHORITY],
  ['UNABLE_TO_GET_ISSUER_CERT_LOCALLY', UNKNOWN_AUTHORITY],
  // OpenSSL uses this code for both: it has the certificate but no issuer.
  ['UNABLE_TO_VERIFY_LEAF_SIGNATURE', `${UNKNOWN_AUTHORITY}, or its chain is incomplete`],
  ['CERT_REVOKED', 'its certificate has been revoked'],
  ['INVALID_PURPOSE', 'its certificate is not for a server'],
])

const NO_CLIENT_CERTIFICATE = 'it requires a client certificate'
const WRONG_CLIENT_CERTIFICATE = 'it did not accept the client certificate'
const NOT_TLS = 'it does not use TLS on this port, which may be for plain HTTP'
const NO_COMMON_VERSION = 'no TLS version in common with it'

/** Why a TLS handshake failed, by OpenSSL reason. The names are those before OpenSSL 3.2. */
const HANDSHAKE_WORDS: ReadonlyMap<string, string> = new Map([
  ['WRONG_VERSION_NUMBER', NOT_TLS],
  ['PACKET_LENGTH_TOO_LONG', NOT_TLS],
  ['HTTP_REQUEST', NOT_TLS],
  ['TLSV1_ALERT_PROTOCOL_VERSION', NO_COMMON_VERSION],
  ['UNSUPPORTED_PROTOCOL', NO_COMMON_VERSION],
  ['VERSION_TOO_LOW', NO_COMMON_VERSION],
  ['NO_PROTOCOLS_AVAILABLE', NO_COMMON_VERSION],
  // Before TLS 1.3 a server sends the same alert when a client certificate is missing.
  ['SSLV3_ALERT_HANDSHAKE_FAILURE', 'no TLS cipher in common with it, or it requires a client certificate'],
  ['TLSV1_ALERT_INSUFFICIENT_SECURITY', 'no TLS cipher in common with it'],
  ['NO_CIPHERS_AVAILABLE', 'no TLS cipher in common with it'],
  ['DH_KEY_TOO_SMALL', 'its TLS key is too short'],
  ['TLSV1_UNRECOGNIZED_NAME', 'it has no certificate for this name'],
  ['TLSV13_ALERT_CERTIFICATE_REQUIRED', NO_CLIENT_CERTIFICATE],
  ['SSLV3_ALERT_BAD_CERTIFICATE', WRONG_CLIENT_CERTIFICATE],
  ['SSLV3_ALERT_UNSUPPORTED_CERTIFICATE', WRONG_CLIENT_CERTIFICATE],
  ['SSLV3_ALERT_CERTIFICATE_REVOKED', WRONG_CLIENT_CERTIFICATE],
  ['SSLV3_ALERT_CERTIFICATE_EXPIRED', WRONG_CLIENT_CERTIFICATE],
  ['SSLV3_ALERT_CERTIFICATE_UNKNOWN', WRONG_CLIENT_CERTIFICATE],
  ['TLSV1_ALERT_UNKNOWN_CA', WRONG_CLIENT_CERTIFICATE],
  ['TLSV1_ALERT_ACCESS_DENIED', WRONG_CLIENT_CERTIFICATE],
])

/** The failure for a plain HTTP URL whose server uses TLS. */
export const SPEAKS_TLS: UpstreamFailure = {
  kind: 'http_protocol_error',
  words: 'it uses TLS on this port, but the URL starts with http, not https',
}

/** Whether an exchange failed because this machine ran out of a resource. That says nothing about the upstream. */
export function isLocal({ kind }: UpstreamFailure): boolean {
  return kind === EXHAUSTED.kind
}

/**
 * Classifies an error of undici, `node:net`, `node:dns` or `node:tls` by its code or that of its causes. An unknown
 * error is a `proxy_internal_error`: a bug in this program.
 */
export function failureOf(error: unknown): UpstreamFailure {
  for (let current = error; current instanceof Error; current = current.cause) {
    const code = 'code' in current && typeof current.code === 'string' ? current.code : ''
    // Node tries every address of a name and collects the errors; the code of the collection is that of the first.
    if (current instanceof AggregateError && current.errors.length > 0) return failureOfAll(current.errors)
    if (isHalfTls(current, code)) {
      return { kind: 'connection_terminated', words: 'connection closed during the TLS handshake' }
    }
    const known = BY_CODE.get(code)
    if (known !== undefined) return known
    // If no file descriptor is free, the resolver reports that the name was not found.
    if (/^(EAI_|ENOTFOUND$)/.test(code)) return canOpen() ? { kind: 'dns_error', words: NO_NAME } : EXHAUSTED
    // Checked before the certificate codes: an alert from the other side about a certificate is about our certificate.
    if (code === 'EPROTO' || code.startsWith('ERR_SSL')) {
      return {
        kind: 'tls_protocol_error',
        words: HANDSHAKE_WORDS.get(reasonOf(current, code)) ?? 'TLS failed',
      }
    }
    if (CERTIFICATE_CODE.test(code)) {
      const words = CERTIFICATE_WORDS.get(code) ?? 'its certificate was not accepted'
      return { kind: 'tls_certificate_error', words }
    }
    if (/^ERR_TLS/.test(code)) return { kind: 'tls_protocol_error', words: 'TLS failed' }
    if (/^(HPE_|UND_ERR_RES|UND_ERR_RESPONSE)/.test(code) || current.name === 'HTTPParserError') {
      if (isTlsRecord(current)) return SPEAKS_TLS
      return { kind: 'http_protocol_error', words: 'its response is not valid HTTP' }
    }
    // Any other operating system error is a failure of the connection, not a bug in this program.
    if ('syscall' in current || Object.hasOwn(constants.errno, code)) {
      return { kind: 'connection_terminated', words: 'the connection failed' }
    }
  }
  return { kind: 'proxy_internal_error', words: 'an unexpected error' }
}

/** Whether the other side closed the connection during the TLS handshake, as Node reports it. */
function isHalfTls({ message }: Error, code: string): boolean {
  return (code === 'ECONNRESET' || code === RESET) && message.includes('before secure TLS connection')
}

/** OpenSSL's reason in the form that Node uses in error codes. For EPROTO it is only in the message. */
function reasonOf({ message }: Error, code: string): string {
  const [, said = ''] = /:error:[0-9A-F]+:[^:]*:[^:]*:([^:]+)/i.exec(message) ?? []
  const reason =
    code === 'EPROTO' ? said.trim().toUpperCase().replaceAll(' ', '_') : code.replace('ERR_SSL_', '')
  // OpenSSL 3.2, in Node 22 and later, has renamed the oldest alerts.
  return reason.replace(/^SSL\/TLS_ALERT_/, 'SSLV3_ALERT_')
}

/** Whether invalid HTTP data is a TLS record, such as an alert (RFC 8446, 5.1). */
function isTlsRecord(error: Error): boolean {
  const data = 'data' in error ? String(error.data) : ''
  const type = data.charCodeAt(0)
  return type >= 20 && type <= 23 && data.charCodeAt(1) === 3
}

/**
 * Why no address of a name could be reached. An address that could not be tried because no file descriptor was free
 * might have been the right one. An error for an address family that this machine lacks (IPv6 on an IPv4-only machine)
 * says less than the others.
 */
function failureOfAll(errors: readonly unknown[]): UpstreamFailure {
  const isWithoutAddress = (error: unknown) =>
    error instanceof Error && 'code' in error && error.code === 'EADDRNOTAVAIL'
  const telling = errors.filter(error => !isWithoutAddress(error)).map(failureOf)
  return telling.find(isLocal) ?? telling[0] ?? EXHAUSTED
}

/** Whether a file descriptor is free at this moment. */
function canOpen(): boolean {
  try {
    closeSync(openSync(devNull, 'r'))
    return true
  } catch {
    return false
  }
}
