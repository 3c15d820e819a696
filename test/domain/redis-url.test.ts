import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { defaultNamespace, parseRedisUrl, REPLICA_WORD } from '../../src/domain/redis-url.js'

/** The address in a valid URL. */
function addressOf(url: string) {
  const parsed = parseRedisUrl(url)
  return parsed.ok ? parsed.address : assert.fail(`${url}: ${parsed.problem}`)
}

test('each part of the URL is read, in every combination of the optional ones', () => {
  const schemes = [
    ['redis', false],
    ['rediss', true],
    ['REDISS', true],
  ] as const
  const users = [
    ['', {}],
    [':', {}],
    [':battery@', { password: 'battery' }],
    ['me:battery@', { username: 'me', password: 'battery' }],
    ['m%40e:b%2Fa%3At%25%3F%23@', { username: 'm@e', password: 'b/a:t%?#' }],
  ] as const
  const hosts = [
    ['valkey', 'valkey'],
    ['Valkey_1.example.com', 'Valkey_1.example.com'],
    ['192.0.2.7', '192.0.2.7'],
    ['[2001:db8::7]', '2001:db8::7'],
  ] as const
  const ports = [
    ['', 6379],
    [':6379', 6379],
    [':1', 1],
    [':65535', 65_535],
  ] as const
  const paths = [
    ['', 0],
    ['/', 0],
    ['/0', 0],
    ['/15', 15],
  ] as const
  for (const [scheme, isEncrypted] of schemes)
    for (const [user, credentials] of users)
      for (const [written, host] of hosts)
        for (const [colon, port] of ports)
          for (const [path, db] of paths) {
            const url = `${scheme}://${user === ':' ? ':@' : user}${written}${colon}${path}`
            assert.deepEqual(addressOf(url), { host, port, db, ...credentials, isEncrypted }, url)
          }
})

test('any encoded user and password are decoded', () => {
  fc.assert(
    fc.property(
      fc.string({ unit: 'grapheme', minLength: 1 }),
      fc.string({ unit: 'grapheme', minLength: 1 }),
      (user, word) => {
        const url = `redis://${encodeURIComponent(user)}:${encodeURIComponent(word)}@valkey`
        const { username, password } = addressOf(url)
        assert.deepEqual([username, password], [user, word])
      },
    ),
  )
})

test('any other part of a URL is reported as a problem that does not quote the URL', () => {
  const rows = [
    ['', 'no scheme'],
    ['valkey:6379', 'no scheme'],
    ['redis:valkey', 'no scheme'],
    ['redis+sentinel://pa55@valkey', 'a scheme other than redis:// and rediss://'],
    ['http://pa55@valkey', 'a scheme other than redis:// and rediss://'],
    ['unix:///run/pa55.sock', 'a scheme other than redis:// and rediss://'],
    ['redis://:pa55@valkey?db=1', 'a query'],
    ['redis://:pa55@valkey/0#x', 'a fragment'],
    ['redis://:pa#55@valkey', 'a fragment'],
    ['redis://:pa 55@valkey', 'whitespace'],
    ['redis://:pa55@valkey\n', 'whitespace'],
    ['redis://:pa\\55@valkey', 'a backslash'],
    ['redis://:pa55@', 'an invalid host or port'],
    ['redis:///0', 'no host'],
    ['redis://:pa55@val%6bey', 'no host'],
    ['redis://:pa55@valkey,other', 'no host'],
    ['redis://me:pa/55@valkey', 'an invalid host or port'],
    ['redis://:pa55@valkey:0', 'port 0'],
    ['redis://:pa55@valkey:65536', 'an invalid host or port'],
    ['redis://:pa55@valkey/one', 'a path'],
    ['redis://:pa55@valkey/-1', 'a path'],
    ['redis://:pa55@valkey/1/2', 'a path'],
    ['redis://:pa%55%@valkey', 'an invalid %'],
    ['redis://:%ff@valkey', 'an invalid %'],
    ['redis://pa55@valkey', 'a user without a password'],
  ] as const
  for (const [url, problem] of rows) {
    const parsed = parseRedisUrl(url)
    if (parsed.ok) assert.fail(`${url} was read`)
    assert.ok(parsed.problem.includes(problem), `${url}: ${parsed.problem}`)
    assert.doesNotMatch(parsed.problem, /pa55|55|valkey/)
  }
})

test('the default namespace is the address of focus-server', () => {
  const rows = [
    ['http://focus-server:5000', 'focus-server:5000'],
    ['http://me:battery@Focus-Server:5000/', 'focus-server:5000'],
    ['https://focus.example.com', 'focus.example.com'],
    ['https://example.com/lab-2', 'example.com:lab-2'],
    ['https://example.com/labs/2/', 'example.com:labs:2'],
    ['http://[2001:db8::7]:5000', '2001:db8::7:5000'],
  ] as const
  for (const [url, namespace] of rows) {
    assert.equal(defaultNamespace(url), namespace)
    assert.match(namespace, new RegExp(REPLICA_WORD))
  }
})
