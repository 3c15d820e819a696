import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { readProxyUrl, redirectTarget, withoutAnyCredentials } from '../../src/cli/proxy-url.js'
import { at, repositoryRoot } from '../support/harness.js'

test('the URL of a proxy is parsed by the same rules as in the Python client', () => {
  // The tests of the Python client read the same table.
  const rows: unknown = JSON.parse(
    readFileSync(join(repositoryRoot, 'clients/python/tests/urls.json'), 'utf8'),
  )
  assert.ok(Array.isArray(rows) && rows.length > 40)
  for (const row of rows) {
    const url = readProxyUrl(String(at(row, 'given')))
    assert.equal(url?.base ?? null, at(row, 'base'), String(at(row, 'given')))
    assert.equal(url?.headers.authorization, at(row, 'authorization'), String(at(row, 'given')))
  }
})

test('credentials are not shown, even if they make the URL invalid', () => {
  for (const [given, shown] of [
    ['ftp://me:secret@a/', 'ftp://***@a/'],
    ['http://me:secret@', 'http://***@'],
    ['me:secret@a', '***@a'],
    ['http://me:se?cret@a', 'http://***@a'],
    ['http://me:se/cr@et@a', 'http://***@a'],
    ['http://a/x', 'http://a/x'],
    ['a:8080', 'a:8080'],
  ] as const) {
    assert.equal(withoutAnyCredentials(given), shown)
  }
})

test('the target of a redirect is shown as the URL to give for the proxy, if it leads to the same route', () => {
  const from = 'http://proxy.example/x/-/status'
  for (const [location, target] of [
    ['https://proxy.example/x/-/status', 'https://proxy.example/x'],
    ['/y/-/status', 'http://proxy.example/y'],
    ['https://proxy.example/-/wait?timeout=5000ms', 'https://proxy.example'],
    ['https://me:secret@login.example/?to=x', 'https://login.example/?to=x'],
    ['http://[', 'http://['],
  ] as const) {
    assert.equal(redirectTarget(location, from), target)
  }
})
