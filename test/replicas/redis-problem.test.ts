import assert from 'node:assert/strict'
import { test } from 'node:test'
import { redisProblem } from '../../src/replicas/redis-problem.js'

const errorWith = (message: string, code?: string) =>
  Object.assign(new Error(message), code !== undefined && { code })

test('errors of the connection to Redis are explained, and the original message is kept', () => {
  const rows: readonly (readonly [error: Error, meaning: RegExp])[] = [
    [
      errorWith('WRONGPASS invalid username-password pair or user is disabled.'),
      /^wrong user name or password/,
    ],
    [errorWith('ERR invalid password'), /^wrong user name or password/],
    [errorWith('NOAUTH Authentication required.'), /^Redis requires a password/],
    [errorWith("NOPERM this user has no permissions to run the 'xadd' command"), /lacks a permission/],
    [errorWith('connect ECONNREFUSED 192.0.2.1:6379', 'ECONNREFUSED'), /^connection refused/],
    [errorWith('getaddrinfo ENOTFOUND valkey', 'ENOTFOUND'), /^the host name cannot be resolved/],
    [errorWith('self-signed certificate', 'DEPTH_ZERO_SELF_SIGNED_CERT'), /not from a trusted authority/],
    [
      errorWith('unable to verify the first certificate', 'UNABLE_TO_VERIFY_LEAF_SIGNATURE'),
      /not from a trusted authority/,
    ],
    [errorWith('certificate has expired', 'CERT_HAS_EXPIRED'), /has expired/],
    [
      errorWith("IP: 192.0.2.1 is not in the cert's list", 'ERR_TLS_CERT_ALTNAME_INVALID'),
      /another host name/,
    ],
    [errorWith('write EPROTO 1:error:0A00010B:SSL', 'EPROTO'), /use redis:\/\//],
  ]
  for (const [error, meaning] of rows) {
    for (const isEncrypted of [false, true]) {
      for (const isJoining of [false, true]) {
        const problem = redisProblem(error, isEncrypted, isJoining)
        assert.match(problem, meaning)
        assert.ok(problem.endsWith(`(${error.message})`), problem)
      }
    }
  }
})

test('a connection that never worked suggests the other scheme, and one that was lost does not', () => {
  const messages = ['Connection is closed.', 'connect ETIMEDOUT', 'read ECONNRESET']
  for (const message of messages) {
    assert.match(redisProblem(errorWith(message), false, true), /use rediss:\/\//)
    assert.match(redisProblem(errorWith(message), true, true), /use redis:\/\//)
    assert.equal(redisProblem(errorWith(message), false, false), message)
    assert.equal(redisProblem(errorWith(message), true, false), message)
  }
})

test('the message of an unknown error is reported unchanged', () => {
  assert.equal(
    redisProblem(errorWith('the data in Redis was lost'), true, true),
    'the data in Redis was lost',
  )
})
