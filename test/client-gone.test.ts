import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { repositoryRoot } from './support/harness.js'

/** The only file that knows whether a client is gone, for every kind of connection. */
const OWNER = 'server/connection.ts'

type Listener = { readonly receiver: string; readonly event: string; readonly line: number }

type Allowed = {
  readonly file: RegExp
  readonly receiver: RegExp
  /** All other source files. */
  readonly event?: string
  readonly why: string
}

/** Files that may listen for such an event, the receiver, and why it is not a client. */
const ALLOWED: readonly Allowed[] = [
  { file: /^simulator\//, receiver: /./, why: 'a stand-in for focus-server, not a part of the proxy' },
  {
    file: /^(proxy\/request-body|server\/read-body)\.ts$/,
    receiver: /^received$/,
    event: 'end',
    why: 'the end of a body, which says nothing about its client',
  },
  { file: /^proxy\/request-body\.ts$/, receiver: /^body$/, why: 'a stream of our own' },
  {
    file: /^server\/listen\.ts$/,
    receiver: /^(other|socket)$/,
    event: 'close',
    why: 'counts the connections of a listener; requests do not depend on it',
  },
  { file: /^cli\/healthcheck\.ts$/, receiver: /^socket$/, event: 'end', why: 'it is a client itself' },
  { file: /^proxy\/fiber-evidence\.ts$/, receiver: /^decoder$/, why: 'a decoder of our own' },
]

/** Events that signal the end of a response, a request or a socket. */
const EVENTS = ['close', 'aborted', 'end', 'finish']

/** A listener added by a method, possibly after `?.` and a line break. */
const BY_METHOD = new RegExp(
  `\\s*\\??\\.(?:on|once|addListener|prependListener|prependOnceListener)\\(\\s*['"\`](${EVENTS.join('|')})['"\`]`,
  'g',
)

/** The receiver of such a method, before any number of chained calls. */
const ROOT = /([\w#$]+)(?:\s*\??\.\w+\([^()]*\))*$/

/** How far back the receiver is searched. */
const CHAIN_LENGTH = 200

/** Other listeners: `once(socket, 'close')`, `finished(response)`, and a Fastify hook. */
const BY_OTHER_MEANS = [
  new RegExp(`(?<![.\\w])(?:on|once)\\(\\s*([\\w#$.]+)\\s*,\\s*['"\`](${EVENTS.join('|')})['"\`]`, 'g'),
  /(?<![.\w])(finished)\(/g,
  /addHook\(\s*['"`](onRequestAbort)['"`]/g,
]

/** Every listener for one of the events in a source file: receiver, event and line. */
function listenersIn(source: string): readonly Listener[] {
  const text = withoutComments(source)
  const lineOf = (index: number) => text.slice(0, index).split('\n').length
  const byMethod = [...text.matchAll(BY_METHOD)].map(({ 1: event = '', index }) => {
    const receiver = ROOT.exec(text.slice(Math.max(0, index - CHAIN_LENGTH), index))?.[1] ?? ''
    return { receiver, event, line: lineOf(index) }
  })
  const byOtherMeans = BY_OTHER_MEANS.flatMap(pattern => [...text.matchAll(pattern)]).map(
    ({ 1: path = '', 2: event = '', index }) => {
      const receiver = path.slice(path.lastIndexOf('.') + 1)
      return { receiver, event, line: lineOf(index) }
    },
  )
  return [...byMethod, ...byOtherMeans].toSorted((one, other) => one.line - other.line)
}

/** Processes line by line, so that line numbers are preserved. */
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
      .filter(listener => file !== OWNER && !ALLOWED.some(allowed => covers(allowed, file, listener)))
      .map(({ receiver, event, line }) => `src/${file}:${line} ${event} of ${receiver}`),
  )
  assert.deepEqual(others, [])
})

test('every exception is still needed', () => {
  const unused = ALLOWED.filter(
    allowed => !sources.some(({ file, listeners }) => listeners.some(each => covers(allowed, file, each))),
  )
  assert.deepEqual(unused, [])
})

function covers(allowed: Allowed, file: string, { receiver, event }: Listener): boolean {
  const isThisEvent = allowed.event === undefined || allowed.event === event
  return isThisEvent && allowed.file.test(file) && allowed.receiver.test(receiver)
}

test('every way to add a listener is recognised, and nothing else', () => {
  const text = [
    "reply.raw.once('close', leave)",
    "socket.on('close', leave)",
    "raw.off('data', a).on('end', b).on('close', c)",
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
    listenersIn(text).map(({ receiver, event, line }) => `${line} ${event} of ${receiver}`),
    [
      '1 close of raw',
      '2 close of socket',
      '3 end of raw',
      '3 close of raw',
      '4 finish of response',
      '6 aborted of raw',
      '7 close of socket',
      '8 close of socket',
      '9  of finished',
      '10  of onRequestAbort',
    ],
  )
})
