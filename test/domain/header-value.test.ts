import assert from 'node:assert/strict'
import { test } from 'node:test'
import { headerValueIn, isProbeHeader } from '../../src/domain/header-value.js'

const RESERVED = [
  ...['connection', 'keep-alive', 'proxy-connection', 'te', 'trailer', 'transfer-encoding', 'upgrade'],
  ...['content-length', 'expect', 'host'],
]

test('a probe can have any header except hop-by-hop headers, Content-Length, Expect and Host', () => {
  for (const name of ['Authorization', 'x-api-key', 'X_1', "!#$%&'*+.^`|~"])
    assert.ok(isProbeHeader(name), name)
  for (const name of RESERVED) {
    assert.ok(!isProbeHeader(name), name)
    assert.ok(!isProbeHeader(name.toUpperCase()), name.toUpperCase())
  }
  for (const name of ['', 'a b', 'a:', ' a', 'a\n', 'é', 'a"', '(a']) assert.ok(!isProbeHeader(name), name)
})

test('the value in a file is its text without surrounding whitespace, if it is a valid header value', () => {
  assert.equal(headerValueIn(' Bearer a\tb ~!\n'), 'Bearer a\tb ~!')
  for (const text of ['', ' \n', 'a\nb', 'a\u0000', 'é', 'a\u007f'])
    assert.equal(headerValueIn(text), undefined)
})
