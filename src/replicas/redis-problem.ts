/** Errors of the connection to Redis by their code and message, and what they mean for an operator. */
const MEANINGS: readonly (readonly [error: RegExp, meaning: string])[] = [
  [/WRONGPASS|ERR invalid password/, 'wrong user name or password'],
  [/NOAUTH/, 'Redis requires a password; add it to the URL'],
  [/NOPERM/, 'the Redis user lacks a permission'],
  [/MISCONF|READONLY/, 'Redis accepts no writes'],
  [/OOM command not allowed/, 'Redis is out of memory'],
  [/ECONNREFUSED/, 'connection refused'],
  [/ENOTFOUND|EAI_AGAIN/, 'the host name cannot be resolved'],
  [/EHOSTUNREACH|ENETUNREACH/, 'the host cannot be reached'],
  [/CERT_HAS_EXPIRED/, 'the TLS certificate of Redis has expired'],
  [/CERT_NOT_YET_VALID/, 'the TLS certificate of Redis is not valid yet; check the clocks'],
  [/ERR_TLS_CERT_ALTNAME_INVALID/, 'the TLS certificate of Redis is for another host name'],
  [
    /SELF_SIGNED_CERT|UNABLE_TO_(?:VERIFY|GET)|CERT_(?:UNTRUSTED|SIGNATURE_FAILURE)/,
    'the TLS certificate of Redis is not from a trusted authority; set replicas.caFile',
  ],
  [
    /WRONG_VERSION_NUMBER|EPROTO/,
    'the TLS handshake failed; if Redis does not use TLS on this port, use redis://',
  ],
]

/** Errors that may come from the wrong scheme, if the connection has never worked. */
const CUT_OFF = /Connection is closed|ECONNRESET|EPIPE|ETIMEDOUT|timed out|socket hang up/

/**
 * What is wrong with the connection to Redis: the meaning of an error where it is known, and the original message.
 *
 * @param isEncrypted whether the URL asks for TLS.
 * @param isJoining whether the replica is still connecting, so that the scheme of the URL may be the cause.
 */
export function redisProblem(error: Error, isEncrypted: boolean, isJoining: boolean): string {
  const { message } = error
  const code = 'code' in error ? String(error.code) : ''
  const text = `${code} ${message}`
  const known = MEANINGS.find(([pattern]) => pattern.test(text))?.[1]
  if (known !== undefined) return `${known} (${message})`
  if (!isJoining || !CUT_OFF.test(text)) return message
  const hint = isEncrypted
    ? 'no TLS connection; if Redis does not use TLS on this port, use redis://'
    : 'no usable connection; if Redis requires TLS on this port, use rediss://'
  return `${hint} (${message})`
}
