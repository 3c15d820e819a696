import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { repositoryRoot } from './support/harness.js'

/** The one file that knows whether a client is gone, for every kind of connection. */
const OWNER = 'server/connection.ts'

/** Files that may listen for such an event, on what, and why that is not a client. */
const ALLOWED: readonly { readonly file: RegExp; readonly receiver: RegExp; readonly why: string }[] = [
  { file: /^simulator\//, receiver: /./, why: 'a stand-in for focus-server, not a part of the proxy' },
  { file: /^cli\//, receiver: /./, why: 'commands are clients' },
  {
    file: /^proxy\/websocket\.ts$/,
    receiver: /^(outgoing|upstream)$/,
    why: 'the connection to focus-server',
  },
]

/** The events with which a response, a request or a socket ends. */
const EVENTS = ['close', 'aborted', 'end', 'finish']

/** A listener by a method, with what it is added to; `?.` and a line break may stand between. */
const BY_METHOD = new RegExp(
  `([\\w#$]+(?:\\([^()]*\\))?)?\\s*\\??\\.(?:on|once|addListener|prependListener|prependOnceListener)\\(\\s*['"\`](${EVENTS.join('|')})['"\`]`,
  'g',
)

/** The same by other means: \`once(socket, 'close')\`, \`finished(response)\`, and a hook of Fastify's. */
const BY_OTHER_MEANS = [
  new RegExp(`(?<![.\\w])(?:on|once)\\(\\s*([\\w#$.]+)\\s*,\\s*['"\`](?:${EVENTS.join('|')})['"\`]`, 'g'),
  /(?<![.\w])(finished)\(/g,
  /addHook\(\s*['"`](onRequestAbort)['"`]/g,
]

/** Every place in a source that listens for one of the events: on what, and in which line. */
function listenersIn(source: string): readonly { readonly receiver: string; readonly line: number }[] {
  const text = withoutComments(source)
  return [BY_METHOD, ...BY_OTHER_MEANS]
    .flatMap(pattern => [...text.matchAll(pattern)])
    .map(({ 1: receiver = '', index }) => ({
      receiver: receiver.split('.').at(-1) ?? '',
      line: text.slice(0, index).split('\n').length,
    }))
    .toSorted((a, b) => a.line - b.line)
}

/** Line by line, so that the numbers of the lines stay as they are. */
function withoutComments(source: string): string {
  return source
    .replace(/\/\*[\s\S]*?\*\//g, comment => comment.replace(/[^\n]/g, ' '))
    .replace(/^\s*\/\/.*$/gm, '')
}

const sources = readdirSync(join(repositoryRoot, 'src'), { recursive: true, encoding: 'utf8' })
  .map(file => file.replaceAll('\\', '/'))
  .filter(file => file.endsWith('.ts'))
  .map(file => ({ file, listeners: listenersIn(readFileSync(join(repositoryRoot, 'src', file), 'utf8')) }))

test('only one file listens for the end of a request, a response or a connection of a client', () => {
  assert.ok(
    sources.some(({ file, listeners }) => file === OWNER && listeners.length > 0),
    `src/${OWNER} listens for nothing`,
  )
  const others = sources.flatMap(({ file, listeners }) =>
    listeners
      .filter(({ receiver }) => file !== OWNER && !isAllowed(file, receiver))
      .map(({ receiver, line }) => `src/${file}:${line} on ${receiver}`),
  )
  assert.deepEqual(others, [])
})

function isAllowed(file: string, receiver: string): boolean {
  return ALLOWED.some(allowed => allowed.file.test(file) && allowed.receiver.test(receiver))
}

test('every spelling of a listener is seen, and nothing else', () => {
  const text = [
    "reply.raw.once('close', leave)",
    "socket.on('close', leave)",
    "raw.off('data', a).on('end', b)",
    "response\n  .once('finish', leave)",
    'request.raw.addListener("aborted", leave)',
    "request.socket?.prependOnceListener('close', leave)",
    "await once(socket, 'close')",
    'finished(response, leave)',
    "app.addHook('onRequestAbort', leave)",
    "// socket.once('close', leave)",
    "/* socket.once('close', leave) */",
    "socket.on('data', leave)",
    "app.addHook('onClose', leave)",
    "breaker.on('transition', leave)",
    "socket.off('close', leave)",
    "isFinished('close')",
  ].join('\n')
  assert.deepEqual(
    listenersIn(text).map(({ receiver, line }) => `${line} ${receiver}`),
    [
      '1 raw',
      '2 socket',
      "3 off('data', a)",
      '4 response',
      '6 raw',
      '7 socket',
      '8 socket',
      '9 finished',
      '10 onRequestAbort',
    ],
  )
})
