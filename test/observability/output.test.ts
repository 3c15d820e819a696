import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { Output } from '../../src/observability/output.js'

/** An output that accepts some bytes, or fails with an error. */
function narrow(t: TestContext, maxPendingBytes: number) {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const reader = { room: 0, error: '', text: '' }
  const write = (bytes: Uint8Array) => {
    if (reader.error !== '') throw Object.assign(new Error('failed'), { code: reader.error })
    if (reader.room === 0) throw Object.assign(new Error('full'), { code: 'EAGAIN' })
    const written = bytes.subarray(0, reader.room)
    reader.room -= written.length
    reader.text += Buffer.from(written).toString()
    return written.length
  }
  const output = new Output(1, { write, maxPendingBytes })
  output.onLoss(({ dropped, code }) => output.write(`lost ${dropped} by ${code}\n`))
  return { reader, output, wait: (milliseconds: number) => t.mock.timers.tick(milliseconds) }
}

test('lines wait for a reader up to a limit, in order; lines beyond it are counted and reported once', t => {
  const { reader, output, wait } = narrow(t, 12)
  for (const line of ['one\n', 'two\n', 'six\n', 'ten\n', 'few\n']) output.write(line)
  assert.equal(output.dropped, 2)
  reader.room = 6
  wait(50)
  assert.equal(reader.text, 'one\ntw')
  reader.room = 100
  wait(50)
  assert.equal(reader.text, 'one\ntwo\nsix\nlost 2 by EAGAIN\n')
  output.write('new\n')
  assert.equal(reader.text, 'one\ntwo\nsix\nlost 2 by EAGAIN\nnew\n')
  assert.equal(output.dropped, 2)
})

for (const error of ['ENOSPC', 'EIO', 'EPIPE', 'EBADF', 'EDQUOT']) {
  test(`${error} drops lines, but never half of one, and is reported once after it ends`, t => {
    const { reader, output, wait } = narrow(t, 1000)
    reader.room = 6
    output.write('one\n')
    output.write('two\n')
    reader.error = error
    wait(50)
    output.write('six\n')
    output.write('ten\n')
    assert.equal(output.failure, error)
    for (let second = 0; second < 5; second += 1) wait(1000)
    assert.equal(output.dropped, 2)
    reader.error = ''
    reader.room = 100
    wait(1000)
    assert.equal(reader.text, `one\ntwo\nlost 2 by ${error}\n`)
    assert.equal(output.failure, undefined)
    output.write('new\n')
    assert.equal(reader.text, `one\ntwo\nlost 2 by ${error}\nnew\n`)
  })
}

test('a report that cannot be written is repeated later, and includes the lines lost since then', t => {
  const { reader, output, wait } = narrow(t, 1000)
  reader.error = 'ENOSPC'
  output.write('one\n')
  wait(1000)
  output.write('two\n')
  wait(1000)
  reader.error = ''
  reader.room = 100
  wait(1000)
  assert.equal(reader.text, 'lost 2 by ENOSPC\n')
  assert.equal(output.dropped, 2)
})

test('a line larger than the limit is written if nothing is queued before it', t => {
  const { reader, output } = narrow(t, 4)
  reader.room = 100
  output.write('a long line\n')
  assert.equal(reader.text, 'a long line\n')
})
