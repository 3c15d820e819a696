import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { brotliCompressSync, deflateSync, gzipSync } from 'node:zlib'
import {
  fiberEvidence,
  MAX_EXCERPT_BYTES,
  ResponseExcerpt,
  wholeText,
} from '../../src/proxy/fiber-evidence.js'

const WORDS = 'Missing required fiber metadata fields: '
const DETAIL = `{"detail":"${WORDS}prr, sw_version"}`
const FIELDS = ['prr', 'sw_version']

type Found = readonly string[] | undefined

/** What is found in a body of these chunks, and in which chunk. It is reported once. */
function search(pieces: readonly string[]): { readonly found: Found; readonly inPiece: number } {
  const reported: Found[] = []
  const reader = fiberEvidence(missing => reported.push(missing))
  let inPiece = pieces.length
  for (const [index, piece] of pieces.entries()) {
    reader.write(Buffer.from(piece))
    if (reported.length > 0) inPiece = Math.min(inPiece, index)
  }
  reader.end()
  reader.end()
  assert.equal(reported.length, 1, 'reported once')
  return { found: reported[0], inPiece }
}

/** What is found in an encoded body, which may arrive in chunks, complete or truncated. */
function decode(coding: string | undefined, pieces: readonly Buffer[]): Promise<Found> {
  return new Promise(resolve => {
    const excerpt = new ResponseExcerpt(coding, fiberEvidence(resolve))
    for (const piece of pieces) excerpt.write(piece)
    excerpt.end()
  })
}

test('words that are split at any position are found', () => {
  const body = `{"error":"Internal","detail":"Cannot configure: ${WORDS}prr, sw_version"}`
  for (let at = 0; at <= body.length; at += 1) {
    assert.deepEqual(search([body.slice(0, at), body.slice(at)]).found, FIELDS, `split at ${at}`)
  }
  assert.deepEqual(search([...body]).found, FIELDS)
})

test('the list is reported as soon as it is complete, and not before', () => {
  const pieces = [`${WORDS}pr`, 'r,', ' sw', '_version', '.minor', '"}', 'never read']
  assert.deepEqual(search(pieces), { found: ['prr', 'sw_version.minor'], inPiece: 5 })
})

test('a list that ends with the body is found at its end', () => {
  assert.deepEqual(search([`${WORDS}prr`]), { found: ['prr'], inPiece: 1 })
  assert.deepEqual(search(['missing required fiber metadata field: dx']).found, ['dx'])
})

test('a body that does not mention the fiber is not evidence', () => {
  for (const body of ['', '{"detail":"out of memory"}', WORDS, `${WORDS}"`, WORDS.slice(1) + FIELDS.join()]) {
    assert.equal(search([body]).found, undefined, body)
    assert.equal(search([...body]).found, undefined, body)
  }
})

test('words without a list do not hide the real ones after them', () => {
  for (const between of ['', '"none". ', 'x'.repeat(2930), 'x'.repeat(5000), `${WORDS}" `.repeat(200)]) {
    const body = `{"was":"${WORDS}","${between}${DETAIL}`
    assert.deepEqual(search([body]).found, FIELDS)
    assert.deepEqual(search([...body]).found, FIELDS)
  }
})

test('an endless list is cut to the length that focus-server can send', () => {
  const endless = `${WORDS}${'prr, '.repeat(10_000)}`
  const { found } = search([...endless])
  assert.deepEqual(
    found,
    Array.from({ length: 32 }, () => 'prr'),
  )
})

test('endless white space is not a list, and hides nothing after it', () => {
  assert.equal(search([...(WORDS + ' '.repeat(50_000))]).found, undefined)
  assert.deepEqual(search([...`${WORDS}${' '.repeat(5000)}${DETAIL}`]).found, FIELDS)
})

/** How many characters are searched, lower-cased or matched for a body in chunks of one byte. */
function workFor(t: TestContext, body: string): number {
  let characters = 0
  const { toLowerCase, indexOf } = String.prototype
  const { exec } = RegExp.prototype
  const mocks = [
    t.mock.method(String.prototype, 'toLowerCase', function (this: string) {
      characters += this.length
      return toLowerCase.call(this)
    }),
    t.mock.method(String.prototype, 'indexOf', function (this: string, text: string, from?: number) {
      characters += this.length
      return indexOf.call(this, text, from)
    }),
    t.mock.method(RegExp.prototype, 'exec', function (this: RegExp, text: string) {
      characters += text.length
      return exec.call(this, text)
    }),
  ]
  const reader = fiberEvidence(() => undefined)
  for (let index = 0; index < body.length; index += 1) reader.write(Buffer.from(body.charAt(index)))
  reader.end()
  for (const { mock } of mocks) mock.restore()
  return characters
}

for (const [what, bodyOf, most] of [
  ['no mention of the fiber', length => 'x'.repeat(length), 100],
  ['a list that never starts', length => WORDS + ' '.repeat(length), 1000],
  ['the start of the words repeated', length => WORDS.slice(0, -5).repeat(length / 35), 200],
  ['the words without a list repeated', length => `${WORDS}" `.repeat(length / 42), 15_000],
] satisfies readonly (readonly [string, (length: number) => string, number])[]) {
  test(`60,000 chunks of one byte, with ${what}, take work proportional to their number`, t => {
    const [half, whole] = [workFor(t, bodyOf(30_000)), workFor(t, bodyOf(60_000))]
    assert.ok(whole > 60_000, 'the work is counted')
    assert.ok(whole <= 2.2 * half, `${half} characters for 30,000 chunks, ${whole} for 60,000`)
    assert.ok(whole <= most * 60_000, `${whole / 60_000} characters for each chunk`)
  })
}

for (const [coding, encode] of [
  ['gzip', gzipSync],
  ['x-gzip', gzipSync],
  ['deflate', deflateSync],
  ['br', brotliCompressSync],
  [' GZIP ', gzipSync],
  ['identity', Buffer.from],
  ['', Buffer.from],
] satisfies readonly (readonly [string, (text: string) => Buffer])[]) {
  test(`a body with the coding "${coding}" is read, complete and in chunks of one byte`, async () => {
    const encoded = encode(DETAIL)
    const bytes = [...encoded].map(byte => Buffer.from([byte]))
    assert.deepEqual(await decode(coding, [encoded]), FIELDS)
    assert.deepEqual(await decode(coding, bytes), FIELDS)
  })
}

test('a body without a coding is read', async () => {
  assert.deepEqual(await decode(undefined, [Buffer.from(DETAIL)]), FIELDS)
})

test('an unknown or wrong coding counts as an empty body', async () => {
  assert.equal(await decode('zstd', [Buffer.from(DETAIL)]), undefined)
  assert.equal(await decode('gzip, br', [Buffer.from(DETAIL)]), undefined)
  assert.equal(await decode('constructor', [Buffer.from(DETAIL)]), undefined)
  assert.equal(await decode('gzip', [Buffer.from(DETAIL)]), undefined)
  assert.equal(await decode('br', [gzipSync(DETAIL)]), undefined)
})

for (const [coding, encode] of [
  ['gzip', gzipSync],
  ['deflate', deflateSync],
  ['br', brotliCompressSync],
] satisfies readonly (readonly [string, (text: string) => Buffer])[]) {
  test(`the received part of a truncated ${coding} body is read`, async () => {
    // More than fits into the first block that a decoder emits.
    const noise = Array.from({ length: 4000 }, (_, index) => (index * 7919).toString(36)).join(' ')
    const encoded = encode(`${DETAIL} ${noise}`)
    assert.deepEqual(await decode(coding, [encoded.subarray(0, encoded.length - 200)]), FIELDS)
    assert.equal(await decode(coding, []), undefined)
  })
}

/** The part of a body that a reader receives. */
function lengthRead(coding: string, body: Buffer): Promise<number> {
  return new Promise(resolve => {
    const excerpt = new ResponseExcerpt(
      coding,
      wholeText(text => resolve(text.length)),
    )
    excerpt.write(body)
    excerpt.end()
  })
}

test('no more than the limit is read, even after decompression', async () => {
  const huge = 'x'.repeat(50_000_000)
  const inflated = gzipSync(huge)
  assert.ok(inflated.length < MAX_EXCERPT_BYTES)
  assert.equal(await lengthRead('gzip', inflated), MAX_EXCERPT_BYTES)
  assert.equal(await lengthRead('identity', Buffer.from(huge)), MAX_EXCERPT_BYTES)
  const before = `${'x'.repeat(MAX_EXCERPT_BYTES - DETAIL.length)}${DETAIL}`
  const behind = `${'x'.repeat(MAX_EXCERPT_BYTES)}${DETAIL}`
  for (const [coding, encode] of [['gzip', gzipSync] as const, ['identity', Buffer.from] as const]) {
    assert.deepEqual(await decode(coding, [encode(before)]), FIELDS)
    assert.equal(await decode(coding, [encode(behind)]), undefined)
  }
})

test('a stopped excerpt reads nothing more', () => {
  const reported: string[] = []
  const excerpt = new ResponseExcerpt(
    undefined,
    wholeText(text => reported.push(text)),
  )
  excerpt.write(Buffer.from('a'))
  assert.equal(excerpt.isReading, true)
  excerpt.stop()
  excerpt.write(Buffer.from('b'))
  excerpt.end()
  assert.deepEqual([reported, excerpt.isReading], [['a'], false])
})
