import assert from 'node:assert/strict'
import type { Socket } from 'node:net'
import { describe, type TestContext, test } from 'node:test'
import { startHaproxy } from '../support/haproxy.js'
import { requireOrSkip, startProxy, until } from '../support/harness.js'
import { startIngress } from '../support/ingress.js'
import { rawClient, rawUpstream } from '../support/raw.js'

/* A response with a missing part must never look complete to its client, however the upstream's connection ends. */

/** Response headers, each with the first part of a body. */
const BEGINNINGS = {
  'with a length': 'Content-Length: 100\r\n\r\nbegun',
  'with a length, and closing': 'Content-Length: 100\r\nConnection: close\r\n\r\nbegun',
  chunked: 'Transfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n',
  'chunked, and closing': 'Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nbegun\r\n',
  'chunked, in a chunk': 'Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n64\r\nbegun',
  'that ends with its connection': 'Connection: close\r\n\r\nbegun',
  'without any framing': '\r\nbegun',
} as const

const CUTS = {
  ends: (socket: Socket) => socket.end(),
  resets: (socket: Socket) => socket.resetAndDestroy(),
} as const

/** The end of the connection ends a response only if nothing else does. */
function isWhole(beginning: string, cut: string): boolean {
  return cut === 'ends' && ['that ends with its connection', 'without any framing'].includes(beginning)
}

/** A started response that is cut, as its client sees it. */
async function seenBy(
  t: TestContext,
  port: number,
  request: string,
  cut: () => void,
): Promise<{ readonly looksWhole: boolean; readonly text: string }> {
  const client = await rawClient(t, port)
  let wasReset = false
  client.socket.once('error', () => {
    wasReset = true
  })
  client.send(request)
  await client.until(/begun/)
  cut()
  const text = await client.closed()
  const head = text.slice(0, text.indexOf('\r\n\r\n'))
  const isChunked = /^transfer-encoding: chunked/im.test(head)
  const hasLength = /^content-length:/im.test(head)
  const looksWhole = isChunked ? text.endsWith('\r\n0\r\n\r\n') : !hasLength && !wasReset
  return { looksWhole, text }
}

async function beginner(t: TestContext) {
  let head = ''
  const { port, received } = await rawUpstream(t, ({ socket }) => socket.write(head))
  const cutter = (cut: (socket: Socket) => void) => () => {
    const socket = received.at(-1)?.socket
    assert.ok(socket !== undefined)
    cut(socket)
  }
  return {
    port,
    cutter,
    begins: (text: string) => {
      head = text
    },
  }
}

const REQUESTS = {
  'HTTP/1.1': 'GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n',
  'HTTP/1.0': 'GET /x HTTP/1.0\r\nHost: a\r\n\r\n',
  'a handshake': 'GET /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n',
  'a job': 'POST /configure HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}',
} as const

describe('a truncated response', () => {
  test('never looks complete, whatever its HTTP version, framing and end', async t => {
    const upstream = await beginner(t)
    const proxy = await startProxy(t, { upstream: `http://127.0.0.1:${upstream.port}` })
    const port = Number(new URL(proxy.url).port)
    for (const version of ['HTTP/1.1', 'HTTP/1.0']) {
      for (const [beginning, text] of Object.entries(BEGINNINGS)) {
        // HTTP/1.0 has no chunks.
        if (version === 'HTTP/1.0' && beginning.startsWith('chunked')) continue
        for (const [how, cut] of Object.entries(CUTS)) {
          for (const [from, request] of Object.entries(REQUESTS)) {
            upstream.begins(`${version} 200 OK\r\n${text}`)
            const seen = await seenBy(t, port, request, upstream.cutter(cut))
            const what = `${version}, ${beginning}, ${how}, to ${from}: ${JSON.stringify(seen.text)}`
            assert.equal(seen.looksWhole, isWhole(beginning, how), what)
          }
        }
      }
    }
  })

  test('counts as an error in the metrics', async t => {
    const upstream = await beginner(t)
    const proxy = await startProxy(t, { upstream: `http://127.0.0.1:${upstream.port}` })
    upstream.begins(`HTTP/1.1 200 OK\r\n${BEGINNINGS['that ends with its connection']}`)
    await seenBy(t, Number(new URL(proxy.url).port), REQUESTS['HTTP/1.1'], upstream.cutter(CUTS.resets))
    await until(async () => {
      const metrics = await (await fetch(`${proxy.url}/-/metrics`)).text()
      return metrics.includes('upstream_errors_total{kind="connection_terminated"} 1')
    })
  })

  test('is also aborted by nginx, and by HAProxy if it is chunked', async t => {
    if (!requireOrSkip(t, 'nginx', 'haproxy')) return
    const upstream = await beginner(t)
    const nginx = await startIngress(t, { upstream: `http://127.0.0.1:${upstream.port}` })
    const others = [
      ['nginx', Number(new URL(nginx.url).port), '/focus-server/x', 'that ends with its connection'],
      ['nginx', Number(new URL(nginx.url).port), '/focus-server/x', 'chunked, and closing'],
      // HAProxy passes on a reset as a normal end to the client of a response without framing.
      ['HAProxy', await startHaproxy(t, upstream.port), '/x', 'chunked, and closing'],
    ] as const
    for (const [name, port, target, beginning] of others) {
      for (const [how, cut] of Object.entries(CUTS)) {
        upstream.begins(`HTTP/1.1 200 OK\r\n${BEGINNINGS[beginning]}`)
        const request = REQUESTS['HTTP/1.1'].replace('/x', target)
        const seen = await seenBy(t, port, request, upstream.cutter(cut))
        assert.equal(
          seen.looksWhole,
          isWhole(beginning, how),
          `${name}, ${how}: ${JSON.stringify(seen.text)}`,
        )
      }
    }
  })
})
