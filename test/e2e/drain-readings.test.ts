import assert from 'node:assert/strict'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer, type ServerResponse } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, type TestContext, test } from 'node:test'
import { at, circuitIs, startProxy, statusOf, until } from '../support/harness.js'
import { aWhile, MISSING } from '../support/http-client.js'
import { portOf } from '../support/raw.js'
import { receiver } from '../support/webhook-receiver.js'

const JSON_TYPE = { 'content-type': 'application/json' }
const READY = '{"prr":2000.0,"sw_version":"11.17.10513"}'
const WAITING = '{"prr":0.0,"sw_version":"waiting for fiber"}'

/** A focus-server with metadata that the test sets, which delays all other requests until the test responds. */
async function focusServer(t: TestContext) {
  const held: ServerResponse[] = []
  const metadata = { text: READY, asked: 0 }
  const server = createServer((request, response) => {
    if (request.url !== '/live_metadata') {
      held.push(response)
      return
    }
    metadata.asked += 1
    response.writeHead(200, JSON_TYPE).end(metadata.text)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => server.closeAllConnections())
  t.after(() => server.close())
  return {
    url: `http://127.0.0.1:${portOf(server)}`,
    held,
    metadata,
    /** As at SIGTERM: no new requests are accepted, those in flight continue. */
    stop: () => {
      server.close()
      server.closeIdleConnections()
    },
  }
}

type FocusServer = Awaited<ReturnType<typeof focusServer>>

/** What focus-server does while the proxy drains. */
const MEANWHILE: Readonly<Record<string, (server: FocusServer) => void>> = {
  'stops first': server => server.stop(),
  'loses its fiber': server => {
    server.metadata.text = WAITING
  },
  'gets its fiber back': server => {
    server.metadata.text = READY
  },
  'sends something that is not metadata': server => {
    server.metadata.text = '<html>'
  },
}

/** How the requests in flight end. */
const ENDINGS: Readonly<Record<string, (response: ServerResponse) => void>> = {
  'get their responses': response => response.writeHead(200, JSON_TYPE).end('{}'),
  'are reset': response => response.destroy(),
  'fail because the fiber is missing': response => {
    response.writeHead(503, JSON_TYPE).end(JSON.stringify({ detail: MISSING }))
  },
}

/**
 * The records of the history file that readings write: counts of requests and the elapsed time continue during a drain.
 */
function historyIn(file: string): readonly unknown[] {
  const text = existsSync(file) ? readFileSync(file, 'utf8') : ''
  return text
    .split('\n')
    .filter(line => line !== '')
    .flatMap(line => {
      const record: unknown = JSON.parse(line)
      return ['outage', 'unreachable', 'override', 'state'].flatMap(kind => at(record, kind) ?? [])
    })
}

describe('a drain with requests in flight', { concurrency: 4 }, () => {
  for (const before of ['closed', 'open'] as const) {
    for (const [what, happens] of Object.entries(MEANWHILE)) {
      test(`changes no history, log or webhook: the circuit is ${before}, and focus-server ${what}`, async t => {
        const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-'))
        t.after(() => rmSync(directory, { recursive: true }))
        const file = join(directory, 'history')
        const [server, webhooks] = [await focusServer(t), await receiver(t)]
        if (before === 'open') server.metadata.text = WAITING
        const proxy = await startProxy(t, {
          upstream: server.url,
          env: {
            FOCUS_BREAKER_PROBE_PERIOD_MS: '100',
            FOCUS_BREAKER_PROBE_TIMEOUT_MS: '20000',
            FOCUS_BREAKER_CIRCUIT_UNREACHABLE_THRESHOLD: '1',
            FOCUS_BREAKER_CIRCUIT_READY_THRESHOLD: '1',
            FOCUS_BREAKER_RECOVERY_RAMP_MS: '0',
            FOCUS_BREAKER_HISTORY_FILE: file,
            FOCUS_BREAKER_NOTIFY_WEBHOOKS: JSON.stringify([{ url: webhooks.url, format: 'json' }]),
            FOCUS_BREAKER_NOTIFY_COOLDOWN_MS: '0',
          },
        })
        await circuitIs(proxy, before)
        if (before === 'open') await webhooks.nth(1)
        const ask = (method: string, path: string) =>
          fetch(proxy.url + path, { method }).catch(() => undefined)
        // A guarded request is in flight only if the circuit admits it.
        const path = before === 'closed' ? 'POST /configure' : 'GET /channels'
        const [method = '', target = ''] = path.split(' ')
        const asked = Object.keys(ENDINGS).map(() => ask(method, target))
        await until(() => server.held.length === asked.length)
        const stopped = proxy.stop()
        await until(() => proxy.logs().some(({ msg }) => msg === 'draining'))
        const known = () => ({
          history: historyIn(file),
          webhooks: webhooks.types(),
          changes: proxy.logs().filter(({ msg }) => /circuit|metadata says|override/.test(String(msg))),
        })
        // The drain starts in the same turn as that log line.
        const earlier = known()
        happens(server)
        await aWhile()
        for (const [index, end] of Object.values(ENDINGS).entries()) {
          const response = server.held[index]
          if (response !== undefined) end(response)
          await aWhile()
        }
        await Promise.all(asked)
        assert.equal(await stopped, 0)
        assert.deepEqual(known(), earlier)
      })
    }
  }

  test('stops fetching metadata, and a metadata request in flight gets its response', async t => {
    const server = await focusServer(t)
    const proxy = await startProxy(t, { upstream: server.url, env: { FOCUS_BREAKER_PROBE_PERIOD_MS: '50' } })
    await until(async () => Number(at(await statusOf(proxy), 'totals', 'probes')) > 1)
    const answer = fetch(`${proxy.url}/channels`)
    await until(() => server.held.length === 1)
    const stopped = proxy.stop()
    await until(() => proxy.logs().some(({ msg }) => msg === 'draining'))
    // One may be in flight.
    await aWhile()
    const asked = server.metadata.asked
    await aWhile()
    assert.equal(server.metadata.asked, asked)
    for (const response of server.held) response.writeHead(200, JSON_TYPE).end('{}')
    assert.equal((await answer).status, 200)
    assert.equal(await stopped, 0)
  })
})
