import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { redisServer as addressOf } from '../../src/replicas/redis-server.js'
import { certificateAuthority } from '../support/certificate-authority.js'
import { freePort, requireOrSkip, until } from '../support/harness.js'
import { redisServer } from '../support/redis.js'
import { Replica } from '../support/replica.js'

test('replicas reach Redis over TLS only if a trusted authority issued its certificate for its name', async t => {
  if (!requireOrSkip(t, 'redis-server', 'openssl')) return
  const authority = certificateAuthority(t)
  const another = certificateAuthority(t)
  const { certFile, keyFile } = authority.issue()
  const port = await freePort()
  await redisServer(t, [
    ['tls-port', String(port)],
    ['tls-cert-file', certFile],
    ['tls-key-file', keyFile],
    ['tls-ca-cert-file', authority.caFile],
    ['tls-auth-clients', 'no'],
    ['requirepass', 'p@ss'],
  ])
  const ca = readFileSync(authority.caFile, 'utf8')
  const joined = await new Replica(t, 'joined', {
    port,
    server: () => addressOf(`rediss://:p%40ss@localhost:${port}/0`, ca),
  }).start()
  assert.ok(joined.replicas.isJoined)
  for (const { url, trusted, problem } of [
    {
      url: `rediss://:p%40ss@localhost:${port}`,
      trusted: another.ca,
      problem: /^the TLS certificate of Redis is not from a trusted authority/,
    },
    {
      url: `rediss://:p%40ss@localhost:${port}`,
      trusted: undefined,
      problem: /^the TLS certificate of Redis is not from a trusted authority/,
    },
    {
      url: `rediss://:p%40ss@127.0.0.1:${port}`,
      trusted: ca,
      problem: /^the TLS certificate of Redis is for another host name .*altnames/,
    },
    {
      url: `rediss://:wrong@localhost:${port}`,
      trusted: ca,
      problem: /^wrong user name or password .*WRONGPASS/,
    },
    { url: `rediss://localhost:${port}`, trusted: ca, problem: /^Redis requires a password.*NOAUTH/ },
    { url: `redis://:p%40ss@localhost:${port}`, trusted: undefined, problem: /use rediss:/ },
  ]) {
    const replica = new Replica(t, 'other', { port, server: () => addressOf(url, trusted) })
    void replica.replicas.start(100)
    await until(() => replica.events.length > 0)
    assert.match(replica.replicas.problem ?? '', problem, url)
    assert.ok(!replica.events.join('').includes('p@ss'))
  }
})
