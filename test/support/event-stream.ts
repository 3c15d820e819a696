import assert from 'node:assert/strict'
import { type ClientRequest, type IncomingMessage, request } from 'node:http'
import type { TestContext } from 'node:test'
import { until } from './harness.js'

/** One event as a browser sees it. */
export interface StreamEvent {
  readonly id: string
  readonly type: string
  readonly data: unknown
}

/** A reader of server-sent events, until the test or the stream ends. */
export interface EventStream {
  readonly statusCode: number
  readonly headers: Readonly<Record<string, string | string[] | undefined>>
  /** The events received so far. */
  readonly events: readonly StreamEvent[]
  /** The comments, which a stream without events sends as a sign of life. */
  readonly comments: readonly string[]
  /** The reconnection delay that the server sent. */
  readonly retryMs: number | undefined
  /** Set once the server has ended the stream (`end`) or it was cut (`cut`). */
  readonly over: 'end' | 'cut' | undefined
  /** Waits until the received events satisfy the condition. */
  until(areRight: (events: readonly StreamEvent[]) => boolean): Promise<void>
  /** Stops reading; the connection stays open. */
  pause(): void
  resume(): void
  close(): void
}

/** Opens a stream and waits for its headers. Lines are parsed as the standard says; an unknown one fails the test. */
export async function openEvents(
  t: TestContext,
  url: string,
  headers: Readonly<Record<string, string>> = {},
): Promise<EventStream> {
  const asked = request(url, { headers: { accept: 'text/event-stream', ...headers }, agent: false })
  t.after(() => asked.destroy())
  const response = await answered(asked)
  const events: StreamEvent[] = []
  const comments: string[] = []
  let retryMs: number | undefined
  let over: EventStream['over']
  let text = ''
  let fields = new Map<string, string>()
  const take = (line: string) => {
    if (line === '') {
      const data = fields.get('data')
      if (data !== undefined) {
        const id = fields.get('id') ?? ''
        events.push({ id, type: fields.get('event') ?? 'message', data: JSON.parse(data) })
      }
      fields = new Map()
      return
    }
    const [, name = '', value = ''] = /^([^:]*):? ?(.*)$/.exec(line) ?? []
    if (name === '') comments.push(value)
    else if (name === 'retry') retryMs = Number(value)
    else {
      assert.ok(['id', 'event', 'data'].includes(name), `not a field of an event stream: ${line}`)
      fields.set(name, value)
    }
  }
  response.setEncoding('utf8')
  response.on('data', (piece: string) => {
    text += piece
    const lines = text.split('\n')
    text = lines.pop() ?? ''
    for (const line of lines) take(line)
  })
  response.on('end', () => {
    over ??= 'end'
  })
  response.on('error', () => {
    over ??= 'cut'
  })
  response.on('close', () => {
    over ??= 'cut'
  })
  return {
    statusCode: response.statusCode ?? 0,
    headers: response.headers,
    events,
    comments,
    get retryMs() {
      return retryMs
    },
    get over() {
      return over
    },
    until: async areRight => {
      await until(() => areRight(events), { what: `events: ${areRight}`, everyMs: 5 })
    },
    pause: () => response.pause(),
    resume: () => response.resume(),
    close: () => asked.destroy(),
  }
}

function answered(asked: ClientRequest): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    // Later errors belong to the response.
    asked.on('error', reject)
    asked.once('response', resolve)
    asked.end()
  })
}
