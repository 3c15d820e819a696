import assert from 'node:assert/strict'
import { once } from 'node:events'
import { closeSync, constants, openSync, readFileSync, readSync, truncateSync } from 'node:fs'
import { join } from 'node:path'
import { describe, type TestContext, test } from 'node:test'
import { at, freePort, programMain, requireOrSkip, startProxy, until } from '../support/harness.js'
import {
  directoryFor,
  type Ended,
  endOf,
  isLive,
  onTerminal,
  pipe,
  serveCommand,
  spawnFor,
  unshareOrSkip,
} from '../support/outputs.js'
import { rawClient, rawUpstream } from '../support/raw.js'
import { simulate } from '../support/simulate.js'

/** A service, and how to make its outputs unusable, if they work at first. */
type Service = {
  readonly pid: number
  readonly url: string
  readonly ended: Promise<Ended>
  readonly breakOutput: () => void
}

type Start = (t: TestContext, upstream: string, env: Env) => Promise<Service | undefined>
type Env = Readonly<Record<string, string>>

const DEBUG = { FOCUS_BREAKER_LOG_LEVEL: 'debug' }
const STUCK_DRAIN = { FOCUS_BREAKER_SERVER_DRAIN_TIMEOUT_MS: '60000' }

/** Both outputs go to this descriptor. */
async function onDescriptor(
  t: TestContext,
  upstream: string,
  env: Env,
  descriptor: number,
  breakOutput: () => void = () => undefined,
): Promise<Service> {
  const { command, url } = await serveCommand(upstream)
  const child = spawnFor(t, command, ['ignore', descriptor, descriptor], env)
  const ended = endOf(child)
  await isLive(url)
  return { pid: Number(child.pid), url, ended, breakOutput }
}

/** Both outputs go to a file on a file system of 64 KiB. */
async function onSmallDisk(t: TestContext, upstream: string, env: Env) {
  const directory = directoryFor(t)
  const { command, url } = await serveCommand(upstream)
  const script = 'mount -t tmpfs -o size=64k none "$0" && exec "$@" >>"$0/log" 2>&1'
  const child = spawnFor(
    t,
    ['unshare', '-rm', 'sh', '-c', script, directory, ...command],
    ['ignore', 'ignore', 'ignore'],
    env,
  )
  const ended = endOf(child)
  await isLive(url)
  const pid = Number(child.pid)
  return { pid, url, ended, breakOutput: () => undefined, log: `/proc/${pid}/root${directory}/log` }
}

const OUTPUTS: readonly (readonly [name: string, start: Start, isStuck: boolean])[] = [
  [
    'a full disk',
    async (t, upstream, env) =>
      unshareOrSkip(t, '-rm', 'mount', '-t', 'tmpfs', 'none', '/mnt')
        ? onSmallDisk(t, upstream, env)
        : undefined,
    false,
  ],
  [
    'a full device',
    async (t, upstream, env) => {
      const device = openSync('/dev/full', 'w')
      t.after(() => closeSync(device))
      return onDescriptor(t, upstream, env, device)
    },
    false,
  ],
  [
    'a read-only descriptor',
    async (t, upstream, env) => {
      const file = openSync(programMain, 'r')
      t.after(() => closeSync(file))
      return onDescriptor(t, upstream, env, file)
    },
    false,
  ],
  [
    'a pipe whose reader leaves',
    async (t, upstream, env) => {
      const { writer, reader, close } = pipe(t)
      return onDescriptor(t, upstream, env, writer, () => close(reader))
    },
    false,
  ],
  [
    'a pipe that is not read',
    async (t, upstream, env) => onDescriptor(t, upstream, env, pipe(t).writer),
    true,
  ],
  [
    'a socket whose reader leaves',
    async (t, upstream, env) => {
      const { command, url } = await serveCommand(upstream)
      const child = spawnFor(t, command, ['ignore', 'pipe', 'pipe'], env)
      const ended = endOf(child)
      await isLive(url)
      const breakOutput = () => {
        child.stdout?.destroy()
        child.stderr?.destroy()
      }
      return { pid: Number(child.pid), url, ended, breakOutput }
    },
    false,
  ],
  [
    'a socket that is not read',
    async (t, upstream, env) => {
      const { command, url } = await serveCommand(upstream)
      const child = spawnFor(t, command, ['ignore', 'pipe', 'pipe'], env)
      for (const output of [child.stdout, child.stderr]) output?.pause()
      const ended = endOf(child)
      await isLive(url)
      return { pid: Number(child.pid), url, ended, breakOutput: () => undefined }
    },
    true,
  ],
  ['a terminal that closes', async (t, upstream, env) => terminal(t, upstream, env, true), false],
  ['a terminal that is stopped', async (t, upstream, env) => terminal(t, upstream, env, false), true],
]

async function terminal(t: TestContext, upstream: string, env: Env, closes: boolean) {
  if (!requireOrSkip(t, 'python3')) return undefined
  const { command, url } = await serveCommand(upstream)
  const { pid, ended, closeTerminal } = await onTerminal(t, command, env)
  await isLive(url)
  return { pid, url, ended, breakOutput: closes ? closeTerminal : () => undefined }
}

/** Makes the service write a line of 8 KB per request. */
async function makeLines(url: string, count: number): Promise<void> {
  for (let request = 0; request < count; request += 1) {
    const response = await fetch(`${url}/-/${'x'.repeat(8000)}`)
    await response.arrayBuffer()
    assert.equal(response.status, 404)
  }
}

async function droppedBy(url: string): Promise<number> {
  const text = await (await fetch(`${url}/-/metrics`)).text()
  return Number(/^focus_breaker_log_lines_dropped_total (\d+)$/m.exec(text)?.[1])
}

describe('a service whose outputs do not work', { concurrency: 4 }, () => {
  for (const format of ['json', 'pretty']) {
    for (const [name, start, isStuck] of OUTPUTS) {
      const env = { ...DEBUG, FOCUS_BREAKER_LOG_FORMAT: format }

      test(`${name}, ${format}: it keeps responding, counts the lost lines, and stops cleanly`, async t => {
        const { simulator } = await simulate(t)
        const service = await start(t, simulator.url, env)
        if (service === undefined) return
        service.breakOutput()
        // More than the megabyte that is buffered for a reader, plus the buffer of the kernel.
        await until(
          async () => {
            await makeLines(service.url, isStuck ? 50 : 10)
            return (await droppedBy(service.url)) > 0
          },
          { timeoutMs: 60_000 },
        )
        process.kill(service.pid, 'SIGTERM')
        assert.deepEqual(await service.ended, { code: 0, signal: null })
      })

      // The ending does not depend on the format.
      if (format === 'json')
        test(`${name}, ${format}: a second signal ends it at once`, async t => {
          const upstream = await rawUpstream(t, () => undefined)
          const service = await start(t, `http://127.0.0.1:${upstream.port}`, { ...env, ...STUCK_DRAIN })
          if (service === undefined) return
          service.breakOutput()
          await makeLines(service.url, 20)
          const held = await rawClient(t, Number(new URL(service.url).port))
          held.socket.write('GET /channels HTTP/1.1\r\nHost: a\r\n\r\n')
          await until(() => upstream.received.some(({ head }) => head.startsWith('GET /channels')))
          process.kill(service.pid, 'SIGTERM')
          await until(() =>
            fetch(`${service.url}/-/live`).then(
              () => false,
              () => true,
            ),
          )
          process.kill(service.pid, 'SIGTERM')
          assert.deepEqual(await service.ended, { code: 143, signal: null })
        })
    }
  }
})

describe('an output that recovers', { concurrency: 2 }, () => {
  test('a disk with space again gets one line about the lost lines, and no partial line', async t => {
    if (!unshareOrSkip(t, '-rm', 'mount', '-t', 'tmpfs', 'none', '/mnt')) return
    const { simulator } = await simulate(t)
    const { url, log, pid, ended } = await onSmallDisk(t, simulator.url, DEBUG)
    await makeLines(url, 30)
    const dropped = await droppedBy(url)
    assert.ok(dropped > 0)
    const before = readFileSync(log, 'utf8')
    truncateSync(log)
    await until(() => /were dropped/.test(readFileSync(log, 'utf8')))
    await makeLines(url, 1)
    // The line of a request is written when its client has the response, so it may come a moment later.
    const lines = await until(() => {
      const written = linesOf(before + readFileSync(log, 'utf8'))
      const report = written.findIndex(line => reportsIn([line]).length > 0)
      return written.slice(report + 1).some(({ path }) => /^\/-\/x+$/.test(String(path))) && written
    })
    assert.deepEqual(reportsIn(lines), [{ dropped: await droppedBy(url), code: 'ENOSPC' }])
    process.kill(pid, 'SIGTERM')
    assert.deepEqual(await ended, { code: 0, signal: null })
  })

  test('a pipe that is read again gets the buffered lines, then one line about the lost lines', async t => {
    const { simulator } = await simulate(t)
    const { writer, reader } = pipe(t)
    const { pid, url, ended } = await onDescriptor(t, simulator.url, DEBUG, writer)
    await until(async () => {
      await makeLines(url, 50)
      return (await droppedBy(url)) > 0
    })
    const dropped = await droppedBy(url)
    let pipeText = ''
    const text = await until(() => {
      pipeText += readAvailable(reader)
      return /were dropped[^\n]*\n/.test(pipeText) && pipeText
    })
    const lines = linesOf(text)
    const [report] = reportsIn(lines)
    assert.equal(reportsIn(lines).length, 1)
    assert.equal(at(report, 'code'), 'EAGAIN')
    assert.ok(Number(at(report, 'dropped')) >= dropped)
    // A megabyte of lines of 8 KB.
    assert.ok(lines.length > 100 && lines.length < 300, `${lines.length} lines`)
    process.kill(pid, 'SIGTERM')
    assert.deepEqual(await ended, { code: 0, signal: null })
  })

  test('a named pipe with a new reader gets one line about the lost lines', async t => {
    const { simulator } = await simulate(t)
    const { file, writer, reader, close } = pipe(t)
    const { pid, url, ended } = await onDescriptor(t, simulator.url, DEBUG, writer)
    close(reader)
    await makeLines(url, 3)
    assert.ok((await droppedBy(url)) > 0)
    const another = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK)
    t.after(() => closeSync(another))
    let text = ''
    await until(() => {
      text += readAvailable(another)
      return /were dropped[^\n]*\n/.test(text)
    })
    assert.deepEqual(
      reportsIn(linesOf(text)).map(report => at(report, 'code')),
      ['EPIPE'],
    )
    process.kill(pid, 'SIGTERM')
    assert.deepEqual(await ended, { code: 0, signal: null })
  })
})

/** The lines of a log, all of them complete; each is a JSON object. */
function linesOf(text: string): readonly Readonly<Record<string, unknown>>[] {
  assert.ok(text.endsWith('\n'))
  return text
    .slice(0, -1)
    .split('\n')
    .map(line => {
      const value: unknown = JSON.parse(line)
      assert.ok(typeof value === 'object' && value !== null)
      return { ...value }
    })
}

function reportsIn(lines: readonly Readonly<Record<string, unknown>>[]) {
  return lines
    .filter(({ msg }) => msg === 'log lines were dropped')
    .map(({ dropped, code }) => ({ dropped, code }))
}

/** The current content of a pipe. */
function readAvailable(descriptor: number): string {
  const bytes = Buffer.alloc(1_048_576)
  try {
    return bytes.toString('utf8', 0, readSync(descriptor, bytes))
  } catch (error) {
    if (at(error, 'code') === 'EAGAIN') return ''
    throw error
  }
}

const VERDICTS: readonly (readonly [
  state: string,
  code: number,
  fiber: 'present' | 'missing' | 'no proxy',
])[] = [
  ['ready', 0, 'present'],
  ['waiting', 3, 'missing'],
  ['proxy_unreachable', 5, 'no proxy'],
]

/** Outputs that never work, for a command that prints a line. */
const DEAD: readonly (readonly [name: string, open: (t: TestContext) => number])[] = [
  [
    'a closed pipe',
    t => {
      const { writer, reader, close } = pipe(t)
      close(reader)
      return writer
    },
  ],
  [
    'a full disk',
    t => {
      const device = openSync('/dev/full', 'w')
      t.after(() => closeSync(device))
      return device
    },
  ],
]

test('check and wait give their exit code and their reports, whatever happens to their outputs', async t => {
  const urls = { present: '', missing: '', 'no proxy': 'http://127.0.0.1:1' }
  for (const fiber of ['present', 'missing'] as const) {
    const { simulator } = await simulate(t, { fiber })
    urls[fiber] = (await startProxy(t, { upstream: simulator.url })).url
  }
  const commands = [
    ['check'],
    ['check', '--json'],
    ['wait', '--timeout', '100ms'],
    ['wait', '--timeout', '100ms', '--json'],
  ]
  for (const words of commands) {
    for (const [name, open] of DEAD) {
      for (const both of [false, true]) {
        const outputs = both ? 'both outputs' : 'standard output'
        await t.test(`${words.join(' ')}, ${outputs} to ${name}`, async t => {
          await Promise.all(VERDICTS.map(verdict => judge(t, words, open(t), both, verdict, urls)))
        })
      }
    }
  }
})

async function judge(
  t: TestContext,
  words: readonly string[],
  descriptor: number,
  both: boolean,
  [state, code, fiber]: (typeof VERDICTS)[number],
  urls: Readonly<Record<'present' | 'missing' | 'no proxy', string>>,
): Promise<void> {
  const directory = directoryFor(t)
  const file = (name: string) => join(directory, name)
  const child = spawnFor(
    t,
    [process.execPath, programMain, ...words, '--proxy', urls[fiber], '--junit', file('junit.xml')],
    ['ignore', descriptor, both ? descriptor : 'pipe'],
    { GITHUB_OUTPUT: file('output'), GITHUB_STEP_SUMMARY: file('summary') },
  )
  let complaint = ''
  child.stderr?.on('data', chunk => {
    complaint += chunk
  })
  assert.deepEqual(await endOf(child), { code, signal: null })
  assert.match(readFileSync(file('junit.xml'), 'utf8'), /<testsuites>/)
  assert.match(readFileSync(file('output'), 'utf8'), new RegExp(`^state=${state}$`, 'm'))
  assert.match(readFileSync(file('summary'), 'utf8'), /### Fiber/)
  assert.equal(complaint, '')
}

test('a command that only prints exits with 0 when its reader has left, and with 1 and the reason on a full disk', async t => {
  const commands = [
    ['--version'],
    ['--help'],
    ['wait', '--help'],
    ['serve', '--check-config', '--upstream', 'http://127.0.0.1:1'],
  ]
  const results: unknown[] = []
  for (const words of commands) {
    for (const [, open] of DEAD) {
      const child = spawnFor(t, [process.execPath, programMain, ...words], ['ignore', open(t), 'pipe'])
      let complaint = ''
      child.stderr?.on('data', chunk => {
        complaint += chunk
      })
      const [code] = await once(child, 'close')
      results.push([code, complaint])
    }
  }
  const full = [1, 'cannot write to standard output: ENOSPC\n']
  assert.deepEqual(
    results,
    commands.flatMap(() => [[0, ''], full]),
  )
})

test('demo and simulate continue when their outputs fail', async t => {
  const port = String(await freePort())
  for (const words of [
    ['simulate', '--port', port],
    ['demo', '--port', port],
  ]) {
    for (const [, open] of DEAD) {
      const descriptor = open(t)
      const child = spawnFor(t, [process.execPath, programMain, ...words], ['ignore', descriptor, descriptor])
      const ended = endOf(child)
      const path = words[0] === 'demo' ? '/-/live' : '/live_metadata'
      const exists = async () => (await fetch(`http://127.0.0.1:${port}${path}`)).status === 200
      await until(exists, { timeoutMs: 20_000 })
      assert.ok(await exists())
      child.kill('SIGTERM')
      assert.deepEqual(await ended, { code: 0, signal: null })
    }
  }
})

test('what Node would write to standard error goes to the log: warnings, and the exception that ends the process', async t => {
  const { command } = await serveCommand('http://127.0.0.1:1')
  const program = `setTimeout(() => process.emitWarning('odd'), 2000)
    setTimeout(() => { throw new Error('fault') }, 2100)`
  const child = spawnFor(t, command, ['ignore', 'pipe', 'pipe'], {
    NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(program)}`,
  })
  const texts = ['', '']
  for (const [index, output] of [child.stdout, child.stderr].entries()) {
    output?.on('data', chunk => {
      texts[index] += chunk
    })
  }
  const [code] = await once(child, 'close')
  assert.equal(code, 1)
  const lines = linesOf(texts[0] ?? '')
  const messages = (level: string) => lines.filter(line => line.level === level).map(line => line.msg)
  assert.deepEqual(messages('warn').at(-1), 'Node.js warning')
  assert.deepEqual(messages('fatal'), ['uncaught exception, exiting'])
  assert.equal(texts[1], '')
})
