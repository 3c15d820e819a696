import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { at, circuitIs, startProxy, statusOf, until } from '../support/harness.js'
import {
  type Answer,
  ask,
  clientPool,
  configure,
  FAST,
  isMissingFiber,
  runClients,
} from '../support/http-client.js'
import { exchange, rawClient } from '../support/raw.js'
import { simulate } from '../support/simulate.js'

const TOKEN = 'correct-horse-battery-staple'
const ENV = { ...FAST, FOCUS_BREAKER_ADMIN_TOKEN: TOKEN }

type Url = { readonly url: string }

/** `PUT /-/override`, with the right token unless another header, or none, is given. */
function put(proxy: Url, body: unknown, authorization: string | null = `Bearer ${TOKEN}`): Promise<Answer> {
  return ask(`${proxy.url}/-/override`, {
    method: 'PUT',
    headers: authorization === null ? {} : { authorization },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  })
}

function remove(proxy: Url, authorization = `Bearer ${TOKEN}`): Promise<Answer> {
  return ask(`${proxy.url}/-/override`, { method: 'DELETE', headers: { authorization } })
}

const shown = (proxy: Url) => ask(`${proxy.url}/-/override`)

const OPEN = { state: 'open', reason: 'fiber work until four', forSeconds: 600 }
const CLOSED = { state: 'closed', reason: 'I stand next to the fiber', forSeconds: 600 }

describe('manual override', { concurrency: 6 }, () => {
  test('a one-line response says who refuses, until when, and why', async t => {
    const { simulator } = await simulate(t)
    const proxy = await startProxy(t, { upstream: simulator.url, env: ENV })
    const { json } = await put(proxy, { ...OPEN, reason: 'fiber work\nuntil four' })
    const { bytes, statusCode } = await ask(`${proxy.url}/-/fiber`, { headers: { accept: 'text/plain' } })
    assert.equal(statusCode, 503)
    assert.equal(
      bytes.toString(),
      `refused by an operator until ${at(json, 'until')}: fiber work until four\n`,
    )
  })

  test('without a configured token nothing can be changed over HTTP', async t => {
    const { simulator } = await simulate(t)
    const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
    for (const answer of [await put(proxy, OPEN), await put(proxy, OPEN, null), await remove(proxy)]) {
      assert.equal(answer.statusCode, 404)
      assert.match(String(at(answer.json, 'message')), /admin\.token/)
    }
    assert.equal(at(await statusOf(proxy), 'override'), null)
    assert.deepEqual((await shown(proxy)).json, {
      override: null,
      history: [],
      changeable: false,
      kept: false,
    })
    assert.equal((await configure(proxy)).statusCode, 200)
  })

  test('a missing or wrong token gets a 401; the response to a wrong one is delayed, and the token is never logged', async t => {
    const { simulator } = await simulate(t)
    const env = { ...ENV, FOCUS_BREAKER_LOG_LEVEL: 'trace' }
    const proxy = await startProxy(t, { upstream: simulator.url, env })
    const none = await put(proxy, OPEN, null)
    assert.equal(none.statusCode, 401)
    assert.match(String(none.headers['www-authenticate']), /^Bearer/)
    const other = await put(proxy, OPEN, `Basic ${Buffer.from(`admin:${TOKEN}`).toString('base64')}`)
    assert.equal(other.statusCode, 401)

    const wrong = ['wrong-token-0001', `${TOKEN}x`, TOKEN.slice(0, -1), TOKEN.toUpperCase()]
    await Promise.all(
      wrong.map(async token => {
        const startedAt = performance.now()
        const answer = await put(proxy, OPEN, `Bearer ${token}`)
        const tookMs = performance.now() - startedAt
        assert.equal(answer.statusCode, 401)
        assert.match(String(answer.headers['www-authenticate']), /^Bearer/)
        assert.ok(tookMs > 900, `a wrong token got its response after ${Math.round(tookMs)} ms`)
      }),
    )
    assert.equal((await remove(proxy, 'Bearer wrong-token-0002')).statusCode, 401)
    assert.equal(at(await statusOf(proxy), 'override'), null)

    // Guessed tokens do not delay the right one.
    const guessing = runClients(5, async () => {
      await put(proxy, OPEN, 'Bearer wrong-token-0003')
    })
    assert.equal((await put(proxy, CLOSED)).statusCode, 200)
    await guessing

    assert.equal(await proxy.stop(), 0)
    const lines = proxy.logs()
    const log = JSON.stringify(lines)
    for (const token of [TOKEN, 'wrong-token', Buffer.from(`admin:${TOKEN}`).toString('base64')]) {
      assert.ok(!log.includes(token), `${token} is in the log`)
    }
    const logged = lines.filter(line => line.msg === 'admin authentication failed')
    assert.equal(
      logged.reduce((sum, line) => sum + Number(line.attempts), 0),
      wrong.length + 1 + 5,
    )
    assert.ok(logged.every(line => line.level === 'warn' && line.last === '127.0.0.1'))
  })

  test('a storm of wrong tokens does not pile up', async t => {
    const { simulator } = await simulate(t)
    const proxy = await startProxy(t, { upstream: simulator.url, env: ENV })
    const dispatcher = clientPool(t, 100)
    const seen = new Map<number, number>()
    await runClients(100, async () => {
      const headers = { authorization: 'Bearer wrong-token' }
      const { statusCode } = await ask(`${proxy.url}/-/override`, { method: 'DELETE', headers, dispatcher })
      seen.set(statusCode, (seen.get(statusCode) ?? 0) + 1)
    })
    t.diagnostic(`100 wrong tokens: ${JSON.stringify([...seen])}`)
    assert.deepEqual([...seen.keys()].sort(), [401, 429])
    assert.equal((await put(proxy, OPEN)).statusCode, 200)
  })

  test('an invalid override changes nothing, all its errors are named, and the maximum is a day', async t => {
    const { simulator } = await simulate(t)
    const proxy = await startProxy(t, { upstream: simulator.url, env: ENV })
    const faulty: [body: unknown, named: RegExp[]][] = [
      [{ state: 'open', forSeconds: 600 }, [/reason/]],
      [{ ...OPEN, reason: '   ' }, [/reason/]],
      [{ ...OPEN, reason: 'x'.repeat(501) }, [/reason/]],
      [{ ...OPEN, reason: 7 }, [/reason/]],
      [{ ...OPEN, forSeconds: -1 }, [/forSeconds/]],
      [{ ...OPEN, forSeconds: 0 }, [/forSeconds/]],
      [{ ...OPEN, forSeconds: 86_401 }, [/forSeconds.*86400/]],
      [{ ...OPEN, forSeconds: 1.5 }, [/forSeconds/]],
      [{ ...OPEN, forSeconds: '600' }, [/forSeconds/]],
      [{ state: 'open', reason: 'no end' }, [/forSeconds/]],
      [{ ...OPEN, state: 'half-open' }, [/state/]],
      [{ ...OPEN, until: '2020-01-01T00:00:00Z' }, [/until/]],
      [
        { state: 'ajar', forSeconds: -5, until: 'yesterday', by: 'me' },
        [/state/, /reason/, /forSeconds/, /until/, /by/],
      ],
      ['{"state":"open",', [/JSON/]],
      ['', [/JSON/]],
      ['null', [/JSON object/]],
      ['[]', [/JSON object/]],
      ['"open"', [/JSON object/]],
    ]
    for (const [body, named] of faulty) {
      const answer = await put(proxy, body)
      assert.equal(answer.statusCode, 400, `${JSON.stringify(body)} got ${answer.statusCode}`)
      for (const fault of named) assert.match(String(at(answer.json, 'message')), fault)
    }
    const current = await shown(proxy)
    assert.deepEqual(current.json, { override: null, history: [], changeable: true, kept: false })
    assert.equal((await configure(proxy)).statusCode, 200)

    const longest = await put(proxy, { ...OPEN, forSeconds: 86_400 })
    assert.equal(longest.statusCode, 200)
    const lasts =
      Date.parse(String(at(longest.json, 'until'))) - Date.parse(String(at(longest.json, 'since')))
    assert.ok(Math.abs(lasts - 86_400_000) <= 1, `it lasts ${lasts} ms`)
  })

  test('a slow body of 10 MB gets its response before it has arrived', async t => {
    const { simulator } = await simulate(t)
    const proxy = await startProxy(t, { upstream: simulator.url, env: ENV })
    const port = Number(new URL(proxy.url).port)
    const head = `PUT /-/override HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${TOKEN}\r\n`
    const slowly = async (framing: string, piece: string, everyMs: number) => {
      const client = await rawClient(t, port)
      client.send(`${head}${framing}\r\n\r\n`)
      const sending = setInterval(() => client.send(piece), everyMs)
      t.after(() => clearInterval(sending))
      const startedAt = performance.now()
      const answer = await client.until(/\r\n\r\n\{.*\}/)
      clearInterval(sending)
      client.socket.destroy()
      return { status: Number(answer.split(' ')[1]), tookMs: performance.now() - startedAt }
    }
    const [announced, chunked, trickling, silent] = await Promise.all([
      slowly('Content-Length: 10485760', 'x'.repeat(1024), 20),
      slowly('Transfer-Encoding: chunked', `400\r\n${'x'.repeat(1024)}\r\n`, 20),
      slowly('Transfer-Encoding: chunked', '1\r\n{\r\n', 100),
      slowly('Content-Length: 70', '', 60_000),
    ])
    t.diagnostic(
      [announced, chunked, trickling, silent]
        .map(a => `${a.status} after ${Math.round(a.tookMs)} ms`)
        .join(', '),
    )
    assert.equal(announced.status, 413)
    assert.equal(chunked.status, 413)
    assert.equal(trickling.status, 408)
    assert.equal(silent.status, 408)
    for (const { tookMs } of [announced, chunked, trickling, silent]) {
      assert.ok(tookMs < 20_000, `responded after ${Math.round(tookMs)} ms`)
    }
    assert.deepEqual((await shown(proxy)).json, {
      override: null,
      history: [],
      changeable: true,
      kept: false,
    })
  })

  test('a client that sends Expect: 100-continue gets 100 Continue', async t => {
    const { simulator } = await simulate(t)
    const proxy = await startProxy(t, { upstream: simulator.url, env: ENV })
    const client = await rawClient(t, Number(new URL(proxy.url).port))
    const body = JSON.stringify(OPEN)
    client.send(
      `PUT /-/override HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${TOKEN}\r\nExpect: 100-continue\r\n` +
        `Content-Length: ${body.length}\r\n\r\n`,
    )
    const interim = await client.until(/\r\n\r\n/)
    assert.match(interim, /^HTTP\/1\.1 100 /)
    client.send(body)
    assert.match(await client.until(/"until"/), /HTTP\/1\.1 200 /)
  })

  test('open refuses with the reason while the fiber is connected, and readings continue', async t => {
    const { simulator } = await simulate(t)
    const proxy = await startProxy(t, { upstream: simulator.url, env: ENV })
    await circuitIs(proxy, 'closed')
    const set = await put(proxy, { ...OPEN, reason: '  fiber work until four ' })
    assert.equal(set.statusCode, 200)
    const { since, until: ends } = { since: at(set.json, 'since'), until: at(set.json, 'until') }
    const override = {
      state: 'open',
      reason: OPEN.reason,
      since,
      until: ends,
      by: '127.0.0.1',
      silent: false,
    }
    assert.deepEqual(set.json, { ...override, kept: false })
    const lasts = Date.parse(String(ends)) - Date.parse(String(since))
    assert.ok(Math.abs(lasts - 600_000) <= 1, `it lasts ${lasts} ms`)

    const refused = await configure(proxy)
    assert.equal(refused.statusCode, 503)
    assert.match(String(refused.headers['retry-after']), /^[45]$/)
    assert.match(String(refused.headers['proxy-status']), /^focus-breaker; error=destination_unavailable;/)
    assert.equal(at(refused.json, 'status'), 'forced_open')
    assert.equal(at(refused.json, 'reason'), OPEN.reason)
    assert.deepEqual(at(refused.json, 'override'), override)
    assert.equal(at(refused.json, 'forwarded'), false)
    assert.doesNotMatch(refused.bytes.toString(), /waiting for fiber/i)
    const gate = await ask(`${proxy.url}/-/fiber`)
    assert.equal(gate.statusCode, 503)
    assert.equal(simulator.counters.byRoute['POST /configure'], undefined)
    assert.equal((await ask(`${proxy.url}/channels`)).statusCode, 200)

    const status = await statusOf(proxy)
    assert.deepEqual(at(status, 'override'), { ...override, forMs: at(status, 'override', 'forMs') })
    assert.equal(at(status, 'admits'), false)
    assert.equal(at(status, 'circuit', 'state'), 'closed')
    assert.equal(at(status, 'reading', 'kind'), 'ready')
    await simulator.setFiber('missing')
    await circuitIs(proxy, 'open')
    assert.equal(at(await statusOf(proxy), 'override', 'since'), at(override, 'since'))
    assert.equal(at((await configure(proxy)).json, 'status'), 'forced_open')

    // With the override removed, the readings decide again.
    const removed = await remove(proxy)
    assert.equal(removed.statusCode, 204)
    assert.equal(removed.bytes.length, 0)
    assert.equal(at((await configure(proxy)).json, 'status'), 'waiting_for_fiber')
    assert.equal((await remove(proxy)).statusCode, 204)
    await simulator.setFiber('present')
    await circuitIs(proxy, 'closed')
    assert.equal((await configure(proxy)).statusCode, 200)
  })

  test('closed admits while the fiber is missing, and readings continue', async t => {
    const { simulator } = await simulate(t, { fiber: 'missing' })
    const proxy = await startProxy(t, { upstream: simulator.url, env: ENV })
    await circuitIs(proxy, 'open')
    assert.equal((await put(proxy, CLOSED)).statusCode, 200)
    for (let attempt = 0; attempt < 5; attempt += 1) {
      const answer = await configure(proxy)
      assert.ok(isMissingFiber(answer), `not focus-server's own response: ${answer.bytes}`)
      assert.equal(answer.headers['focus-breaker'], undefined)
    }
    assert.equal(simulator.counters.byRoute['POST /configure'], 5)
    assert.equal((await ask(`${proxy.url}/-/fiber`)).statusCode, 200)
    const status = await statusOf(proxy)
    assert.equal(at(status, 'admits'), true)
    assert.equal(at(status, 'override', 'reason'), CLOSED.reason)
    assert.equal(at(status, 'circuit', 'state'), 'open')
    assert.equal(at(status, 'reading', 'kind'), 'waiting')

    await simulator.setFiber('present')
    await circuitIs(proxy, 'closed')
    assert.equal(at(await statusOf(proxy), 'override', 'state'), 'closed')
    assert.equal((await configure(proxy)).statusCode, 200)
  })

  test('an override ends on its own', async t => {
    const { simulator } = await simulate(t)
    const proxy = await startProxy(t, { upstream: simulator.url, env: ENV })
    const set = await put(proxy, { ...OPEN, forSeconds: 2 })
    const ends = Date.parse(String(at(set.json, 'until')))
    assert.equal(at((await configure(proxy)).json, 'status'), 'forced_open')
    const admitted = await until(async () => {
      const { statusCode } = await configure(proxy)
      return statusCode === 200 && Date.now()
    })
    // The clocks of two processes may differ by some milliseconds.
    assert.ok(admitted > ends - 50, `it ended ${ends - admitted} ms early`)
    assert.equal(at(await statusOf(proxy), 'override'), null)
    const { json } = await shown(proxy)
    assert.equal(at(json, 'override'), null)
    assert.equal(at(json, 'history', 0, 'reason'), OPEN.reason)
    const ended = await until(() => proxy.logs().find(line => line.msg === 'override ended'))
    assert.equal(ended.level, 'warn')
    assert.equal(ended.reason, OPEN.reason)
  })

  test('the last of several overrides wins, and the earlier ones are in the history and in the log', async t => {
    const { simulator } = await simulate(t)
    const proxy = await startProxy(t, { upstream: simulator.url, env: ENV })
    const words = [
      { ...OPEN, reason: 'first' },
      { ...CLOSED, reason: 'second' },
      { ...OPEN, reason: 'third' },
    ]
    for (const word of words) assert.equal((await put(proxy, word)).statusCode, 200)
    const refused = await configure(proxy)
    assert.equal(at(refused.json, 'reason'), 'third')
    const { json, headers } = await shown(proxy)
    assert.equal(headers['cache-control'], 'no-store')
    assert.equal(at(json, 'override', 'reason'), 'third')
    assert.equal(at(json, 'history', 0, 'reason'), 'second')
    assert.equal(at(json, 'history', 0, 'by'), '127.0.0.1')
    assert.equal(at(json, 'history', 1, 'reason'), 'first')
    assert.equal(at(json, 'history', 2), undefined)
    assert.equal((await remove(proxy)).statusCode, 204)
    const after = (await shown(proxy)).json
    assert.equal(at(after, 'override'), null)
    assert.equal(at(after, 'history', 0, 'reason'), 'third')

    const logged = await until(() => {
      const lines = proxy.logs().filter(line => String(line.msg).startsWith('override'))
      return lines.length >= 4 && lines
    })
    assert.deepEqual(
      logged.map(line => [line.level, line.msg, line.reason, at(line.replaced, 'reason')]),
      [
        ['warn', 'override set: circuit forced open', 'first', undefined],
        ['warn', 'override set: circuit forced closed', 'second', 'first'],
        ['warn', 'override set: circuit forced open', 'third', 'second'],
        ['warn', 'override removed', 'third', undefined],
      ],
    )
    assert.ok(logged.every(line => line.by === '127.0.0.1' && typeof line.until === 'string'))
  })

  test('a reason with control characters and quotes is plain text everywhere', async t => {
    const { simulator } = await simulate(t)
    const proxy = await startProxy(t, { upstream: simulator.url, env: ENV })
    const reason = 'line one\r\nX-Injected: yes "quoted" <b>ä</b>'
    assert.equal((await put(proxy, { ...OPEN, reason })).statusCode, 200)
    const port = Number(new URL(proxy.url).port)
    const answer = await exchange(
      t,
      port,
      'POST /configure HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n',
    )
    const [head = '', body = ''] = answer.split('\r\n\r\n')
    assert.doesNotMatch(head, /X-Injected/i)
    assert.equal(at(JSON.parse(Buffer.from(body, 'latin1').toString()), 'reason'), reason)
  })
})
