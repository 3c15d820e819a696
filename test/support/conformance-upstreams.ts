import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { STATUS_CODES } from 'node:http'
import { createServer, type Socket } from 'node:net'
import type { TestContext } from 'node:test'
import { type Field, type Message, perform, type Step, WireReader } from './conformance-wire.js'
import { at, startProgram } from './harness.js'
import { portOf } from './raw.js'

/** What an upstream sends in response to every request until the test sets something else. */
export interface Play {
  readonly status: number
  readonly fields: readonly string[]
  /** Pieces of text, pauses in milliseconds, and runs of bytes. */
  readonly body: readonly (string | number | { readonly bytes: number })[]
  /** Responds before it has read the request body. */
  readonly early?: boolean
  /** How long it does not read the body. */
  readonly holdMs?: number
  /** What to do with a WebSocket. */
  readonly webSocket?: 'echo' | 'greet' | 'close' | 'refuse'
  /** What the raw-socket upstream sends instead; the uvicorn upstream cannot. */
  readonly raw?: readonly Step[]
}

/** A request as it reached an upstream. */
export interface Seen {
  readonly method: string
  readonly target: string
  readonly fields: readonly Field[]
  readonly length: number
  readonly sha256: string
  readonly whole: boolean
  /** Not reported by uvicorn, which drops trailers. */
  readonly trailers: readonly Field[]
  /** The client and the scheme as uvicorn sees them. */
  readonly client: string
  /** For a WebSocket: its outcome, and how it ended. */
  readonly tunnel: string
}

/** An upstream that the test controls. */
export interface Upstream {
  readonly port: number
  /**
   * Sets the response from now on: for requests with the tag, or for those without, which also clears what has arrived.
   */
  play(play: Play, tag?: string): Promise<void>
  /** What has arrived since then, without the proxy's own probes. */
  seen(): Promise<readonly Seen[]>
}

/** A header that distinguishes exchanges that run at the same time. */
export const TAG = 'x-tag'

const READY = '{"prr":2000.0,"sw_version":"11.17.10513","fiber_description":"site A"}'

/** An ASGI application that records requests and plays the given responses, under real uvicorn. */
const PROGRAM = `
import asyncio, hashlib, json, socket
import uvicorn

plays = {}
seen = []


def pairs(scope):
    return [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]


def begun(scope):
    query = scope["query_string"]
    path = scope["raw_path"]
    # As text from the WebSocket side, as bytes from the other.
    path = path.encode("latin-1") if isinstance(path, str) else path
    target = path + (b"?" + query if query else b"")
    client = str(scope["client"][0]) if scope["client"] else ""
    record = {"method": scope.get("method", "GET"), "target": target.decode("latin-1"), "fields": pairs(scope),
              "client": client + " " + scope["scheme"], "length": 0, "sha256": "", "whole": False, "tunnel": ""}
    seen.append(record)
    tag = dict(scope["headers"]).get(b"x-tag", b"").decode("latin-1")
    return record, plays[tag]


async def read(receive, record):
    digest = hashlib.sha256()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        digest.update(message.get("body", b""))
        record["length"] += len(message.get("body", b""))
        if not message.get("more_body"):
            record["whole"] = True
            break
    record["sha256"] = digest.hexdigest()


async def answer(send, status, fields, body):
    headers = [[part.strip().encode("latin-1") for part in field.split(":", 1)] for field in fields]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    for piece in body:
        if isinstance(piece, dict):
            block = b"x" * 65536
            left = piece["bytes"]
            while left > 0:
                await send({"type": "http.response.body", "body": block[:left], "more_body": True})
                left -= len(block)
        elif isinstance(piece, str):
            await send({"type": "http.response.body", "body": piece.encode("latin-1"), "more_body": True})
        else:
            await asyncio.sleep(piece / 1000)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def websocket(scope, receive, send):
    record, play = begun(scope)
    await receive()
    if play["webSocket"] == "refuse":
        await send({"type": "websocket.close", "code": 1000})
        record["whole"] = True
        return
    chosen = scope["subprotocols"][0] if scope["subprotocols"] else None
    await send({"type": "websocket.accept", "subprotocol": chosen, "headers": [[b"x-mine", b"1"]]})
    if play["webSocket"] == "greet":
        await send({"type": "websocket.send", "text": "hello"})
    if play["webSocket"] == "close":
        await send({"type": "websocket.close", "code": 4001})
        record["whole"] = True
        return
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            record["tunnel"] += "closed %d" % message.get("code", 0)
            record["whole"] = True
            return
        record["tunnel"] += message.get("text") or ""
        await send({"type": "websocket.send", "text": "echo:" + (message.get("text") or "")})


async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await websocket(scope, receive, send)
        return
    if scope["path"] == "/live_metadata":
        await answer(send, 200, ["content-type: application/json"], [${JSON.stringify(READY)}])
    elif scope["path"] == "/_control/play":
        text = b""
        while True:
            message = await receive()
            text += message.get("body", b"")
            if not message.get("more_body"):
                break
        tag = scope["query_string"].decode("latin-1")
        plays[tag] = json.loads(text)
        if not tag:
            seen.clear()
        await answer(send, 200, [], [])
    elif scope["path"] == "/_control/seen":
        await answer(send, 200, [], [json.dumps(seen)])
    else:
        record, play = begun(scope)
        await asyncio.sleep(play["holdMs"] / 1000)
        if not play["early"]:
            await read(receive, record)
        await answer(send, play["status"], play["fields"], play["body"])


listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
listener.bind(("127.0.0.1", 0))
listener.listen(128)
print(listener.getsockname()[1], flush=True)
server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
# SIGTERM ends it at once, whatever is under way.
server.install_signal_handlers = lambda: None
server.run(sockets=[listener])
`

/** The application above under uvicorn, until the test ends. */
export async function startUvicorn(t: TestContext): Promise<Upstream> {
  const program = await startProgram(t, {
    command: '/usr/bin/python3',
    args: ['-c', PROGRAM],
    readyWhen: line => (/^\d+$/.test(line) ? Number(line) : undefined),
  })
  const control = `http://127.0.0.1:${program.ready}/_control`
  return {
    port: program.ready,
    play: async ({ webSocket = 'echo', early = false, holdMs = 0, ...play }, tag = '') => {
      const body = JSON.stringify({ ...play, webSocket, early, holdMs })
      const { status } = await fetch(`${control}/play?${tag}`, { method: 'PUT', body })
      assert.equal(status, 200)
    },
    seen: async () => {
      const taken: unknown = await (await fetch(`${control}/seen`)).json()
      assert.ok(Array.isArray(taken))
      return taken.map(seenFrom)
    },
  }
}

function seenFrom(entry: unknown): Seen {
  const fields = at(entry, 'fields')
  assert.ok(Array.isArray(fields))
  return {
    method: String(at(entry, 'method')),
    target: String(at(entry, 'target')),
    fields: fields.map((field: unknown) => [String(at(field, 0)), String(at(field, 1))] as const),
    length: Number(at(entry, 'length')),
    sha256: String(at(entry, 'sha256')),
    whole: at(entry, 'whole') === true,
    trailers: [],
    client: String(at(entry, 'client')),
    tunnel: String(at(entry, 'tunnel')),
  }
}

/** The same with raw sockets: it sends exactly the given bytes. */
export async function startSockets(t: TestContext): Promise<Upstream> {
  const plays = new Map<string, Play>()
  let seen: { -readonly [name in keyof Seen]: Seen[name] }[] = []
  const sockets = new Set<Socket>()
  const server = createServer({ allowHalfOpen: true }, socket => {
    sockets.add(socket)
    socket.setNoDelay(true)
    socket.on('error', () => undefined)
    let current: (typeof seen)[number] | undefined
    let isAnswered = false
    let play: Play = NO_PLAY
    // One after the other, also for pipelined requests.
    let turn: Promise<void> = Promise.resolve()
    const reply = (line: string) => {
      const [method = '', target = ''] = line.split(' ')
      const isLast = current === undefined ? false : asksForTheEnd(current.fields, line)
      const steps =
        method === 'GET' && target === '/live_metadata'
          ? wire({ status: 200, fields: ['content-type: application/json'], body: [READY] }, method)
          : wire(play, method)
      turn = turn.then(() => perform(socket, isLast ? [...steps, { end: 'half' }] : steps))
    }
    const reader = new WireReader({
      head: ({ line, fields }) => {
        isAnswered = false
        play = plays.get(fields.find(([name]) => name === TAG)?.[1] ?? '') ?? NO_PLAY
        const [method = '', target = ''] = line.split(' ')
        current = undefined
        if (target !== '/live_metadata') {
          current = { method, target, fields, ...NOTHING }
          seen.push(current)
        }
        if (play.holdMs !== undefined && current !== undefined) {
          socket.pause()
          setTimeout(() => socket.resume(), play.holdMs)
        }
        const asks = fields.some(([name]) => name === 'expect')
        if (asks && !play.early) socket.write('HTTP/1.1 100 Continue\r\n\r\n')
        if (fields.some(([name]) => name === 'upgrade') && play.raw?.some(isSwitch)) reader.upgrade()
        if (play.early) {
          isAnswered = true
          reply(line)
        }
      },
      message: message => {
        if (current !== undefined) Object.assign(current, ofMessage(message))
        if (message.whole && !isAnswered) reply(message.line)
      },
      tunnel: bytes => {
        if (current !== undefined) current.tunnel += bytes.toString('latin1')
      },
    })
    socket.on('data', chunk => reader.feed(chunk))
    // A client that has half-closed still gets its response.
    socket.once('end', () => {
      turn = turn.then(() => void socket.end())
    })
    socket.once('close', () => {
      sockets.delete(socket)
      reader.end()
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return {
    port: portOf(server),
    play: async (play, tag = '') => {
      plays.set(tag, play)
      if (tag === '') seen = []
    },
    seen: async () => seen.map(one => ({ ...one })),
  }
}

const NO_PLAY: Play = { status: 200, fields: [], body: [] }

const NOTHING = {
  length: 0,
  sha256: createHash('sha256').digest('hex'),
  whole: false,
  trailers: [],
  client: '',
  tunnel: '',
}

function ofMessage({ length, sha256, whole, trailers }: Message) {
  return { length, sha256, whole, trailers }
}

function asksForTheEnd(fields: readonly Field[], line: string): boolean {
  const wish = fields.findLast(([name]) => name === 'connection')?.[1] ?? ''
  return /close/i.test(wish) || (line.endsWith('/1.0') && !/keep-alive/i.test(wish))
}

function isSwitch(step: Step): boolean {
  return typeof step === 'string' && step.startsWith('HTTP/1.1 101 ')
}

/** A response as bytes: with a Content-Length if it is given, otherwise in chunks. */
function wire(play: Play, method: string): readonly Step[] {
  if (play.raw !== undefined) return play.raw
  const { status, fields, body } = play
  const isBodiless = method === 'HEAD' || status === 204 || status === 304
  const hasLength = fields.some(field => /^content-length:/i.test(field))
  const isChunked = !isBodiless && !hasLength
  const head = [
    `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? 'Odd'}`,
    ...fields,
    ...(isChunked ? ['transfer-encoding: chunked'] : []),
  ]
  const steps: Step[] = [`${head.join('\r\n')}\r\n\r\n`]
  if (isBodiless) return steps
  for (const piece of body) {
    if (typeof piece === 'number') steps.push({ pauseMs: piece })
    else if (typeof piece === 'string') {
      if (piece !== '') steps.push(isChunked ? `${piece.length.toString(16)}\r\n${piece}\r\n` : piece)
    } else if (isChunked) steps.push(`${piece.bytes.toString(16)}\r\n`, piece, '\r\n')
    else steps.push(piece)
  }
  if (isChunked) steps.push('0\r\n\r\n')
  return steps
}
