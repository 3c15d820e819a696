import assert from 'node:assert/strict'
import { test } from 'node:test'
import { contentLength, MessageReader } from '../../bench/message-reader.js'

const BYTES = Buffer.from(
  'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi',
)

test('messages are found however the bytes are split', () => {
  for (const size of [1, 2, 7, 40, BYTES.length]) {
    const found: string[] = []
    let message = ''
    const reader = new MessageReader({
      head: head => {
        message = head.slice('HTTP/1.1 '.length, 'HTTP/1.1 200'.length)
        return contentLength(head) ?? 0
      },
      body: part => {
        message += ` ${part}`
      },
      end: () => found.push(message.replaceAll(' ', '')),
    })
    for (let at = 0; at < BYTES.length; at += size) reader.read(BYTES.subarray(at, at + size))
    assert.deepEqual(found, ['200hello', '204', '200hi'], `in parts of ${size} bytes`)
  }
})
