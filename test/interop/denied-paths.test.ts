import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { at, freePort, requireOrSkip, startProgram, startProxy, statusOf } from '../support/harness.js'
import { sendAll } from '../support/keep-alive.js'
import { ownSpellings } from '../support/own-spellings.js'
import { rawUpstream, response } from '../support/raw.js'

const TOKEN = 'a-token-of-the-operator'
const FORWARDED = 'forwarded to focus-server'

const GATEWAYS = {
  // `path` of an absolute-form target is also used as it was sent: nothing is decoded or resolved.
  haproxy: (port: number, proxy: string, paths: readonly string[]) => `
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
frontend in
  bind 127.0.0.1:${port}
  http-request deny deny_status 403 if { path_beg ${paths.join(' ')} }
  default_backend proxy
backend proxy
  server proxy ${proxy}
`,
  // Matched on the path that nginx has decoded and resolved; forwarded unchanged.
  nginx: (port: number, proxy: string, paths: readonly string[], directory: string) => `
daemon off;
master_process off;
pid ${directory}/nginx.pid;
error_log stderr info;
events {}
http {
  access_log off;
  client_body_temp_path ${directory}/a; proxy_temp_path ${directory}/b; fastcgi_temp_path ${directory}/c;
  uwsgi_temp_path ${directory}/d; scgi_temp_path ${directory}/e;
  server {
    listen 127.0.0.1:${port};
    ${paths.map(path => `location ${path} { return 403; }`).join('\n    ')}
    location / { proxy_pass http://${proxy}; }
  }
}
`,
} as const

for (const gateway of ['haproxy', 'nginx'] as const) {
  for (const basePath of ['', '/focus-server']) {
    test(`no spelling gets past ${gateway} when it denies the proxy's own routes, with basePath "${basePath}"`, async t => {
      if (!requireOrSkip(t, gateway)) return
      const upstream = await rawUpstream(t, ({ socket }) => socket.write(response('200 OK', FORWARDED)))
      const env = { FOCUS_BREAKER_BASE_PATH: basePath, FOCUS_BREAKER_ADMIN_TOKEN: TOKEN }
      const proxy = await startProxy(t, { upstream: `http://127.0.0.1:${upstream.port}`, env })
      const bases = [...new Set(['', basePath])]
      const url = await startGateway(
        t,
        gateway,
        proxy.url,
        bases.map(base => `${base}/-/`),
      )
      for (const base of bases) {
        const { others, literal } = ownSpellings(base)
        const targets = [...literal, ...others]
        const body = JSON.stringify({ state: 'closed', reason: 'a test', forSeconds: 60 })
        const fields = [`Authorization: Bearer ${TOKEN}`]
        for (const way of [{ method: 'GET' }, { method: 'PUT', fields, body }]) {
          const some = targets.filter((_, index) => way.method === 'GET' || index % 7 === 0)
          const answers = await sendAll(
            url,
            some.map(target => ({ ...way, target })),
          )
          // Denied, not valid HTTP for the gateway, or without a route here.
          const passed = some.filter((_, index) => ![400, 403, 404].includes(answers[index]?.status ?? 0))
          assert.deepEqual(passed, [], way.method)
        }
      }
      assert.equal(at(await statusOf(proxy), 'override'), null)
      assert.deepEqual(upstream.received, [])
      // The gateway still serves everything else.
      const [other] = await sendAll(url, [{ method: 'GET', target: `${basePath}/channels` }])
      assert.equal(other?.body, FORWARDED)
    })
  }
}

async function startGateway(
  t: TestContext,
  gateway: 'haproxy' | 'nginx',
  proxy: string,
  denied: readonly string[],
): Promise<string> {
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-'))
  t.after(() => rmSync(directory, { recursive: true }))
  const file = join(directory, 'gateway.conf')
  const port = await freePort()
  writeFileSync(file, GATEWAYS[gateway](port, new URL(proxy).host, denied, directory))
  await startProgram(
    t,
    gateway === 'haproxy'
      ? {
          command: '/usr/sbin/haproxy',
          args: ['-db', '-V', '-f', file],
          readyWhen: line =>
            /Available polling systems|Using \w+ as the polling/.test(line) ? true : undefined,
        }
      : {
          command: '/usr/sbin/nginx',
          args: ['-p', directory, '-c', file],
          readyWhen: line => (line.includes('OS: ') ? true : undefined),
        },
  )
  return `http://127.0.0.1:${port}`
}
