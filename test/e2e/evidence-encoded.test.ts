import assert from 'node:assert/strict'
import { describe, type TestContext, test } from 'node:test'
import { brotliCompressSync, constants, deflateSync, gzipSync } from 'node:zlib'
import { holdingsOf } from '../support/accounting.js'
import { at, startProxy, until } from '../support/harness.js'
import { HonestClient, readChannels } from '../support/honest-client.js'
import { aWhile, configure, MISSING, NO_PROBES } from '../support/http-client.js'
import { ProxyState } from '../support/proxy-state.js'
import { rawUpstream, response } from '../support/raw.js'

const EVIDENCE = JSON.stringify({ detail: `${MISSING}, sw_version` })

/** Beyond the part of a response that is searched for evidence. */
const BEYOND = 100_000

const CODINGS = {
  identity: (body: Buffer) => body,
  gzip: (body: Buffer) => gzipSync(body),
  deflate: (body: Buffer) => deflateSync(body),
  br: (body: Buffer) => brotliCompressSync(body, { params: { [constants.BROTLI_PARAM_QUALITY]: 4 } }),
} as const

/** The framing of the bytes of a response. */
const FRAMES = {
  whole: (body: Buffer) => `Content-Length: ${body.length}\r\n\r\n${body.toString('latin1')}`,
  'in chunks of one byte': (body: Buffer) => {
    const chunks = [...body].map(byte => `1\r\n${String.fromCharCode(byte)}\r\n`)
    return `Transfer-Encoding: chunked\r\n\r\n${chunks.join('')}0\r\n\r\n`
  },
} as const

/** The proxy in front of an upstream that fails every job with these bytes, sent with this coding and framing. */
async function setUp(
  t: TestContext,
  body: Buffer,
  options: { readonly contentEncoding: string; readonly frame?: keyof typeof FRAMES },
) {
  const { contentEncoding, frame = 'whole' } = options
  const field = contentEncoding === 'identity' ? '' : `Content-Encoding: ${contentEncoding}\r\n`
  const upstream = await rawUpstream(t, ({ head, socket }) => {
    if (!head.startsWith('POST ')) return socket.write(response('200 OK', '{}'))
    const answer = `HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n${field}`
    return socket.write(Buffer.from(answer + FRAMES[frame](body), 'latin1'))
  })
  const proxy = await startProxy(t, { upstream: `http://127.0.0.1:${upstream.port}`, env: NO_PROBES })
  const state = new ProxyState(t, proxy)
  await state.circuitIs('closed')
  const opening = () => proxy.logs().find(line => line.to === 'open')
  return { proxy, state, opening }
}

/** The response reaches the client byte for byte, and the circuit stays closed. */
async function assertNothingOpens(set: Awaited<ReturnType<typeof setUp>>, body: Buffer): Promise<void> {
  const answer = await configure(set.proxy)
  assert.equal(answer.statusCode, 503)
  assert.ok(answer.bytes.equals(body), 'the response was changed')
  await aWhile()
  assert.equal(set.opening(), undefined)
  assert.equal(at(await set.state.status(), 'circuit', 'state'), 'closed')
  await set.state.isAtRest()
}

describe('evidence of a missing fiber', { concurrency: 2 }, () => {
  for (const contentEncoding of ['identity', 'gzip', 'deflate', 'br'] as const) {
    for (const frame of ['whole', 'in chunks of one byte'] as const) {
      test(`opens the circuit: ${contentEncoding}, ${frame}`, async t => {
        const body = CODINGS[contentEncoding](Buffer.from(EVIDENCE))
        const { proxy, opening } = await setUp(t, body, { contentEncoding, frame })
        const answer = await configure(proxy)
        assert.equal(answer.statusCode, 503)
        assert.ok(answer.bytes.equals(body), 'the response was changed')
        const opened = await until(opening, { what: 'the circuit opens' })
        assert.equal(opened.source, 'configure')
        assert.deepEqual(opened.missing, ['prr', 'sw_version'])
      })
    }

    test(`is found after 60,000 bytes: ${contentEncoding}`, async t => {
      const body = CODINGS[contentEncoding](Buffer.from('x'.repeat(60_000) + EVIDENCE))
      const frame = 'in chunks of one byte'
      const { proxy, opening } = await setUp(t, body, { contentEncoding, frame })
      assert.ok((await configure(proxy)).bytes.equals(body))
      await until(opening, { what: 'the circuit opens' })
    })

    test(`is not searched for beyond 64 KiB of text: ${contentEncoding}`, async t => {
      const body = CODINGS[contentEncoding](Buffer.from('x'.repeat(BEYOND) + EVIDENCE))
      await assertNothingOpens(await setUp(t, body, { contentEncoding }), body)
    })
  }

  test('is found whatever the case of the content coding', async t => {
    const { proxy, opening } = await setUp(t, gzipSync(EVIDENCE), { contentEncoding: 'GZIP' })
    await configure(proxy)
    await until(opening, { what: 'the circuit opens' })
  })

  test('is not found in a body that cannot be decoded, which is forwarded unchanged', async t => {
    const bodies = [
      ['gzip', Buffer.from(EVIDENCE)],
      ['gzip', gzipSync('x'.repeat(1000)).subarray(0, 20)],
      ['br', Buffer.from('not a brotli stream')],
      ['deflate', Buffer.alloc(1000, 255)],
      ['unheard-of', Buffer.from('\0\x01\x02')],
      ['gzip', Buffer.alloc(0)],
    ] as const
    for (const [contentEncoding, body] of bodies) {
      await assertNothingOpens(await setUp(t, body, { contentEncoding }), body)
    }
  })

  test('a small body that decodes to 256 MB is decoded no further than it is searched', async t => {
    const zeros = Buffer.alloc(256 * 2 ** 20)
    for (const contentEncoding of ['gzip', 'br'] as const) {
      const body = CODINGS[contentEncoding](zeros)
      const set = await setUp(t, body, { contentEncoding })
      const beforeMb = holdingsOf(set.proxy.pid).residentMb
      const honest = new HonestClient(t, { url: set.proxy.url, errands: [readChannels] })
      await assertNothingOpens(set, body)
      assert.deepEqual((await honest.stop()).errors, [])
      const grownMb = holdingsOf(set.proxy.pid).residentMb - beforeMb
      t.diagnostic(`${contentEncoding}: ${body.length} bytes; resident memory rose by ${grownMb} MB`)
      assert.ok(grownMb < 100, `resident memory rose by ${grownMb} MB`)
    }
  })
})
