import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { CLIENT_PACKAGE, loadClient, redisServer } from '../../src/replicas/redis-server.js'
import { at, repositoryRoot } from '../support/harness.js'

test('only rediss:// uses TLS, with the given authorities or the default ones', () => {
  const server = { host: 'valkey', port: 6380, db: 2, username: 'me', password: 'b/t' }
  const rows = [
    ['redis', undefined, server],
    ['rediss', undefined, { ...server, tls: {} }],
    ['rediss', 'PEM', { ...server, tls: { ca: 'PEM' } }],
  ] as const
  for (const [scheme, ca, expected] of rows) {
    assert.deepEqual(redisServer(`${scheme}://me:b%2Ft@valkey:6380/2`, ca), expected)
  }
})

test('the error for an invalid URL does not quote the URL', () => {
  assert.throws(
    () => redisServer('redis://:pa55@valkey?x'),
    ({ message }: Error) => /invalid replicas\.url: it has a query/.test(message) && !/pa55/.test(message),
  )
})

test('the client version that users are asked to install is the tested one', async () => {
  const manifest: unknown = JSON.parse(readFileSync(join(repositoryRoot, 'package.json'), 'utf8'))
  for (const list of ['devDependencies', 'peerDependencies']) {
    assert.equal(`ioredis@${at(manifest, list, 'ioredis')}`, CLIENT_PACKAGE)
  }
  assert.equal(at(manifest, 'peerDependenciesMeta', 'ioredis', 'optional'), true)
  const library = await loadClient()
  assert.equal(library?.Redis.name, 'Redis')
})
