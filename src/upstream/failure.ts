import type { UpstreamFailureKind } from '../domain/vocabulary.js'

/** Why an exchange with the upstream failed; `words` is for people and holds no address. */
export type UpstreamFailure = {
  readonly kind: UpstreamFailureKind
  readonly words: string
}

/** The code of a reset that undici must not take for the end of a response. */
export const RESET = 'FOCUS_BREAKER_RESET'

const BY_CODE: ReadonlyMap<string, UpstreamFailure> = new Map(
  Object.entries({
    ECONNREFUSED: { kind: 'connection_refused', words: 'connection refused' },
    ECONNRESET: { kind: 'connection_terminated', words: 'connection closed before the answer' },
    EPIPE: { kind: 'connection_terminated', words: 'connection closed before the answer' },
    UND_ERR_SOCKET: { kind: 'connection_terminated', words: 'connection closed before the answer' },
    UND_ERR_CLOSED: { kind: 'connection_terminated', words: 'connection closed before the answer' },
    UND_ERR_DESTROYED: { kind: 'connection_terminated', words: 'connection closed before the answer' },
    UND_ERR_CONNECT_TIMEOUT: { kind: 'connection_timeout', words: 'no connection in time' },
    ETIMEDOUT: { kind: 'connection_timeout', words: 'no connection in time' },
    UND_ERR_HEADERS_TIMEOUT: { kind: 'http_response_timeout', words: 'no answer in time' },
    UND_ERR_BODY_TIMEOUT: { kind: 'http_response_timeout', words: 'no complete answer in time' },
    FOCUS_BREAKER_STATUS: { kind: 'http_protocol_error', words: 'its status is none of HTTP' },
    FOCUS_BREAKER_FRAMING: {
      kind: 'http_protocol_error',
      words: 'its body has a length or a transfer coding that cannot be passed on',
    },
    [RESET]: { kind: 'connection_terminated', words: 'connection closed before the answer' },
    FOCUS_BREAKER_INTERIM: { kind: 'http_protocol_error', words: 'too many interim responses' },
    ENOTFOUND: { kind: 'dns_error', words: 'its name did not resolve' },
    EAI_AGAIN: { kind: 'dns_error', words: 'its name did not resolve' },
    EHOSTUNREACH: { kind: 'destination_ip_unroutable', words: 'no route to it' },
    ENETUNREACH: { kind: 'destination_ip_unroutable', words: 'no route to it' },
    EADDRNOTAVAIL: { kind: 'destination_ip_unroutable', words: 'no route to it' },
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

/**
 * The meaning of an error of undici, `node:net`, `node:dns` or `node:tls`, found in the error or its causes.
 * An unknown error is `proxy_internal_error`: a fault of this program.
 */
export function failureOf(error: unknown): UpstreamFailure {
  for (let current = error; current instanceof Error; current = current.cause) {
    const code = 'code' in current && typeof current.code === 'string' ? current.code : ''
    const known = BY_CODE.get(code)
    if (known !== undefined) return known
    // Node tries every address of a name and collects the errors. The first one is enough.
    if (current instanceof AggregateError) return failureOf(current.errors[0])
    if (CERTIFICATE_CODE.test(code)) {
      return { kind: 'tls_certificate_error', words: 'its certificate was not accepted' }
    }
    if (/^ERR_(SSL|TLS)/.test(code)) return { kind: 'tls_protocol_error', words: 'TLS failed' }
    if (/^(HPE_|UND_ERR_RES|UND_ERR_RESPONSE)/.test(code) || current.name === 'HTTPParserError') {
      return { kind: 'http_protocol_error', words: 'its answer was not HTTP' }
    }
  }
  return { kind: 'proxy_internal_error', words: 'an unexpected error' }
}
