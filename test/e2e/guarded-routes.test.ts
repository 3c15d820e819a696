import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { circuitIs, programMain, startProxy, until } from '../support/harness.js'
import { NO_PROBES } from '../support/http-client.js'
import { exchange, type Received, rawUpstream, response } from '../support/raw.js'

type Test = Parameters<typeof rawUpstream>[0]

const CLOSE = 'Host: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n'

/** An upstream without its fiber that responds 200 to everything else. */
async function withoutFiber(t: Test) {
  const answer = ({ socket }: Received) => socket.write(response('200 OK', 'forwarded'))
  const { port, received } = await rawUpstream(t, answer, { there: false })
  return { url: `http://127.0.0.1:${port}`, received }
}

/** The built proxy with these guarded routes and an open circuit; returns the status of a POST. */
async function guarding(
  t: Test,
  paths: readonly string[],
  env: Record<string, string> = {},
  upstreamPath = '',
) {
  const upstream = await withoutFiber(t)
  const routes = JSON.stringify(paths.map(path => ({ method: 'POST', path })))
  const proxy = await startProxy(t, {
    upstream: upstream.url + upstreamPath,
    env: { ...NO_PROBES, FOCUS_BREAKER_GUARD_ROUTES: routes, ...env },
  })
  await circuitIs(proxy, 'open')
  const port = Number(new URL(proxy.url).port)
  const post = async (target: string) => {
    const answer = await exchange(t, port, `POST ${target} HTTP/1.1\r\n${CLOSE}`)
    return answer.slice(9, 12)
  }
  return { proxy, post, received: upstream.received }
}

const bytesOf = (text: string) => Buffer.from(text).toString('latin1')
const anyCase = (text: string) => [text, text.toLowerCase()]

describe('guarded routes', { concurrency: 4 }, () => {
  test('a route with non-ASCII letters refuses every spelling of it, and nothing else', async t => {
    const names = ['größe', 'конфиг', '設定', 'e\u0301', '😀']
    const { post, received } = await guarding(
      t,
      names.map(name => `/${name}`),
    )
    for (const name of names) {
      const encoded = encodeURIComponent(name)
      const [first, ...rest] = name
      const spellings = [
        bytesOf(name),
        ...anyCase(encoded),
        bytesOf(first ?? '') + encodeURIComponent(rest.join('')),
      ]
      for (const spelled of spellings) {
        for (const target of [
          `/${spelled}`,
          `//x/..//${spelled}/`,
          `/${spelled}?a=b`,
          `/%2e/${spelled}%0a`,
        ]) {
          // Node's parser does not accept unencoded bytes beyond ASCII.
          assert.equal(await post(target), /\P{ASCII}/u.test(spelled) ? '400' : '503', target)
        }
      }
      assert.equal(await post(`/${encoded}x`), '200')
      assert.equal(await post(`/x/${encoded}`), '200')
    }
    assert.equal(received.length, 2 * names.length)
  })

  test('a route configured with the base path guards the same requests as one without', async t => {
    const base = { FOCUS_BREAKER_BASE_PATH: '/focus-server' }
    for (const path of ['/configure', '/focus-server/configure']) {
      const { post } = await guarding(t, [path], base)
      for (const target of ['/configure', '/focus-server/configure', '/Focus-Server//configure/']) {
        assert.equal(await post(target), '503', `${target} with the route ${path}`)
      }
      assert.equal(await post('/focus-server/other'), '200')
    }
  })

  test("a route configured with the upstream's own path guards the same requests as one without", async t => {
    for (const path of ['/configure', '/fs/configure']) {
      const { post } = await guarding(t, [path], {}, '/fs')
      assert.equal(await post('/configure'), '503', `/configure with the route ${path}`)
      assert.equal(await post('/other'), '200')
    }
  })

  const check = (routes: unknown, env: Readonly<Record<string, string>> = {}) =>
    spawnSync(process.execPath, [programMain, 'serve', '--check-config'], {
      encoding: 'utf8',
      env: {
        FOCUS_BREAKER_UPSTREAM_URL: 'http://192.0.2.1',
        FOCUS_BREAKER_GUARD_ROUTES: JSON.stringify(routes),
        ...env,
      },
    })

  test('a route that cannot be guarded is rejected at the start, with its reason and its position', () => {
    const good = { method: 'POST', path: '/configure' }
    const bad: readonly (readonly [method: string, path: string, expected: RegExp])[] = [
      ['POST', '/configure?x=1', /without a query/],
      ['POST', '/configure\n', /without control characters/],
      ['POST', '/configure%00', /without control characters/],
      ['POST', '/configure ', /without whitespace/],
      ['POST', '/100%', /two hexadecimal digits/],
      ['POST', '/a\\b', /without backslashes/],
      ['POST', '/jobs/*', /:name matches/],
      ['POST', '/config/{task_id}', /:name matches/],
      ['POST', '/a/../configure', /without the segments/],
      ['POST', '/-/status', /focus-breaker's own/],
      ['PSOT', '/configure', /a method that is forwarded/],
      ['ANY', '/configure', /a method that is forwarded/],
      ['TRACE', '/configure', /a method that is forwarded/],
      ['CONNECT', '/configure', /a method that is forwarded/],
    ]
    const { status, stderr } = check([good, ...bad.map(([method, path]) => ({ method, path }))])
    assert.equal(status, 2)
    const lines = stderr.trimEnd().split('\n').slice(1)
    assert.equal(lines.length, bad.length, stderr)
    for (const [index, [, , expected]] of bad.entries()) {
      const line = lines[index] ?? ''
      assert.match(line, expected)
      assert.match(line, new RegExp(`guard\\.routes: expected .*; given .* as item ${index + 2}$`))
    }
    assert.equal(check([good]).status, 0)
  })

  test('a base path that no request can start with is rejected at the start', () => {
    for (const basePath of [
      '/größe',
      '/a b',
      '/a/../b',
      '/.',
      '/a\\b',
      '/-',
      '/-/a',
      '/a%20b',
      '/{x}',
      '/a?',
      '/a\u0001',
    ]) {
      const { status, stderr } = check([], { FOCUS_BREAKER_BASE_PATH: basePath })
      assert.equal(status, 2, basePath)
      assert.match(stderr, /basePath: expected .* a path like \/focus-server/)
    }
    for (const basePath of ['/focus-server', '/a/b', '/a.b/~c', '/-a', '/v1;x=1']) {
      assert.equal(check([], { FOCUS_BREAKER_BASE_PATH: basePath }).status, 0, basePath)
    }
  })

  test('a reload with a route that cannot be guarded changes nothing and reports it', async t => {
    const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-'))
    t.after(() => rmSync(directory, { recursive: true }))
    const file = join(directory, 'config.yaml')
    const routes = (path: string) =>
      writeFileSync(file, `guard: {routes: [{method: POST, path: "${path}"}]}\n`)
    routes('/größe')
    const upstream = await withoutFiber(t)
    const proxy = await startProxy(t, { upstream: upstream.url, env: NO_PROBES, args: ['--config', file] })
    await circuitIs(proxy, 'open')
    routes('/größe?x')
    process.kill(proxy.pid, 'SIGHUP')
    await until(() => proxy.logs().some(line => JSON.stringify(line).includes('without a query')), {
      what: 'the log names the error',
    })
    const answer = await fetch(`${proxy.url}/${encodeURIComponent('größe')}`, { method: 'POST' })
    assert.equal(answer.status, 503)
  })
})
