import assert from 'node:assert/strict'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { repositoryRoot, requireOrSkip, startProgram, startProxy } from '../support/harness.js'
import { exchange, field } from '../support/raw.js'

/** Real uvicorn that knows, or does not know, the prefix under which it is published. */
async function startUvicorn(t: TestContext, rootPath: string): Promise<string> {
  const app = ['focus_server:app', '--app-dir', join(repositoryRoot, 'test/interop')]
  const program = await startProgram(t, {
    command: '/usr/bin/python3',
    args: ['-m', 'uvicorn', ...app, '--port', '0', ...(rootPath === '' ? [] : ['--root-path', rootPath])],
    readyWhen: line => /running on (http:\S+)/.exec(line)?.[1],
  })
  return program.ready
}

/** The prefix that uvicorn knows, the one that this proxy removes, and the one that a gateway in front has removed. */
const SITES = [
  { rootPath: '', basePath: '', gateway: '' },
  { rootPath: '', basePath: '/fs', gateway: '' },
  { rootPath: '/fs', basePath: '/fs', gateway: '' },
  { rootPath: '', basePath: '', gateway: '/gw' },
  { rootPath: '/gw', basePath: '', gateway: '/gw' },
  { rootPath: '', basePath: '/fs', gateway: '/gw' },
  { rootPath: '/fs', basePath: '/fs', gateway: '/gw' },
  { rootPath: '/gw/fs', basePath: '/fs', gateway: '/gw' },
] as const

test("uvicorn's redirects lead back to the proxy, whichever component knows the prefix", async t => {
  if (!requireOrSkip(t, 'uvicorn')) return
  const uvicorns = new Map<string, string>()
  for (const { rootPath, basePath, gateway } of SITES) {
    const upstream = uvicorns.get(rootPath) ?? (await startUvicorn(t, rootPath))
    uvicorns.set(rootPath, upstream)
    const proxy = await startProxy(t, {
      upstream,
      env: { FOCUS_BREAKER_SERVER_TRUST_PROXY: '[loopback]', FOCUS_BREAKER_BASE_PATH: basePath },
    })
    const port = Number(new URL(proxy.url).port)
    for (const [proto, address] of [
      ['', 'http://lab.example'],
      ['X-Forwarded-Proto: https\r\n', 'https://lab.example'],
      ['X-Forwarded-Proto: https\r\nX-Forwarded-Port: 8443\r\n', 'https://lab.example:8443'],
      ['Forwarded: for=203.0.113.9;proto=https;host="lab.example:8443"\r\n', 'https://lab.example:8443'],
    ] as const) {
      const prefix = gateway === '' ? '' : `X-Forwarded-Prefix: ${gateway}\r\n`
      const request = (target: string) =>
        `GET ${target} HTTP/1.1\r\nHost: lab.example\r\n${proto}${prefix}Connection: close\r\n\r\n`
      const what = JSON.stringify({ rootPath, basePath, gateway, proto })
      const redirect = await exchange(t, port, request(`${basePath}/channels/`))
      assert.match(redirect, /^HTTP\/1\.1 307 /, what)
      const location = field(redirect, 'location') ?? ''
      assert.equal(location, `${address}${gateway}${basePath}/channels`, what)
      // The gateway removes its prefix again.
      const followed = await exchange(t, port, request(location.slice(`${address}${gateway}`.length)))
      assert.match(followed, /^HTTP\/1\.1 200 [\s\S]*"lowest_channel"/, what)
    }
  }
})
