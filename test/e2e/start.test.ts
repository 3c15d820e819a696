import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { join } from 'node:path'
import { describe, type TestContext, test } from 'node:test'
import { freePort, repositoryRoot, until } from '../support/harness.js'
import { readLines } from '../support/lines.js'
import { directoryFor, endOf, spawnFor, unshareOrSkip } from '../support/outputs.js'

/** Not a bundle: a signal must come while the program still loads its files. */
const main = join(repositoryRoot, 'dist/cli/main.js')

/** As the first process of a container: signals without a handler do not reach it. */
const CONTAINER = ['-r', '--pid', '--fork', '--kill-child', '--mount-proc']

/** Starts it, on its own or as the first process of a namespace, and waits until it handles signals. */
async function begin(t: TestContext, words: readonly string[], isFirst: boolean) {
  const command = [process.execPath, main, ...words]
  const child = spawnFor(t, isFirst ? ['unshare', ...CONTAINER, ...command] : command, [
    'ignore',
    'pipe',
    'inherit',
  ])
  assert.ok(child.stdout)
  const lines: string[] = []
  readLines(child.stdout, line => lines.push(line))
  const ended = endOf(child)
  const pid = isFirst ? await until(() => childOf(Number(child.pid)), { everyMs: 1 }) : Number(child.pid)
  // Node itself catches SIGINT and SIGTERM, to restore its terminal.
  const signal = words[0] === 'wait' ? 0 : 1
  if (signal === 1) await until(() => catches(pid, signal), { everyMs: 1 })
  return { pid, ended, lines }
}

function childOf(pid: number): number | undefined {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim()
  return children === '' ? undefined : Number(children)
}

function catches(pid: number, signal: number): boolean {
  const mask = /^SigCgt:\s*([0-9a-f]+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? '0'
  return (BigInt(`0x${mask}`) >> BigInt(signal - 1)) % 2n === 1n
}

/** An upstream that does not respond for now, so that the start takes as long as the test needs. */
async function slowUpstream(t: TestContext) {
  const waiting: (() => void)[] = []
  const server = createServer((_request, response) => {
    waiting.push(() => {
      response.setHeader('content-type', 'application/json')
      response.end('{"prr":2000,"sw_version":"1"}')
    })
  })
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  const port = await freePort()
  server.listen(port, '127.0.0.1')
  return { url: `http://127.0.0.1:${port}`, waiting }
}

const PLACES = [
  ['an ordinary process', false],
  ['the first process of a container', true],
] as const

describe('a signal during the start', { concurrency: 2 }, () => {
  for (const [place, isFirst] of PLACES) {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      for (const name of ['serve', 'no command', 'demo', 'simulate']) {
        test(`${signal} ends ${name} with exit code 0 while it is loading, as ${place}`, async t => {
          if (isFirst && !unshareOrSkip(t, ...CONTAINER, 'true')) return
          const upstream = ['--upstream', 'http://127.0.0.1:1']
          const port = ['--port', String(await freePort())]
          const words = {
            serve: ['serve', ...upstream, ...port],
            'no command': [...upstream, ...port],
            demo: ['demo', ...port],
            simulate: ['simulate', ...port],
          }[name]
          assert.ok(words)
          const { pid, ended, lines } = await begin(t, words, isFirst)
          process.kill(pid, signal)
          assert.deepEqual(await ended, { code: 0, signal: null })
          assert.deepEqual(lines, [])
        })
      }

      test(`${signal} ends serve with exit code 0 while the first reading is taken, as ${place}`, async t => {
        if (isFirst && !unshareOrSkip(t, ...CONTAINER, 'true')) return
        const upstream = await slowUpstream(t)
        const { pid, ended, lines } = await begin(t, await withSlowProbe(t, upstream.url), isFirst)
        await until(() => upstream.waiting.length > 0)
        process.kill(pid, signal)
        assert.deepEqual(await ended, { code: 0, signal: null })
        assert.deepEqual(lines, [])
      })
    }

    test(`SIGHUP is kept until the start has finished and then reloads, as ${place}`, async t => {
      if (isFirst && !unshareOrSkip(t, ...CONTAINER, 'true')) return
      for (const phase of ['while it is loading', 'while the first reading is taken']) {
        const upstream = await slowUpstream(t)
        const { pid, ended, lines } = await begin(t, await withSlowProbe(t, upstream.url), isFirst)
        if (phase === 'while it is loading') process.kill(pid, 'SIGHUP')
        await until(() => upstream.waiting.length > 0)
        if (phase !== 'while it is loading') process.kill(pid, 'SIGHUP')
        for (const answer of upstream.waiting) answer()
        await until(() => lines.some(line => line.includes('configuration was reloaded')), { what: phase })
        const messages = lines.map(line => /"msg":"([^"]*)"/.exec(line)?.[1])
        assert.ok(messages.indexOf('listening') < messages.indexOf('configuration was reloaded'))
        assert.equal(messages.filter(message => message === 'configuration was reloaded').length, 1)
        process.kill(pid, 'SIGTERM')
        assert.deepEqual(await ended, { code: 0, signal: null })
      }
    })
  }

  test('SIGHUP ends demo and simulate, which have nothing to reload', async t => {
    for (const command of ['demo', 'simulate']) {
      const { pid, ended } = await begin(t, [command, '--port', String(await freePort())], false)
      process.kill(pid, 'SIGHUP')
      assert.deepEqual(await ended, { code: 0, signal: null }, command)
    }
  })
})

async function withSlowProbe(t: TestContext, url: string): Promise<readonly string[]> {
  const file = join(directoryFor(t), 'focus-breaker.yaml')
  writeFileSync(file, 'probe: { timeoutMs: 600000 }\n')
  const port = String(await freePort())
  return ['serve', '--config', file, '--upstream', url, '--host', '127.0.0.1', '--port', port]
}

test('signals are handled before anything else is loaded', () => {
  const source = (file: string) => readFileSync(join(repositoryRoot, 'src/cli', file), 'utf8')
  const importsOf = (text: string) =>
    [...text.matchAll(/^(?:import|export)\b.*from '([^']+)'/gm)].map(([, file]) => file)
  assert.deepEqual(importsOf(source('main.ts')), ['./signals.js'])
  assert.deepEqual(importsOf(source('signals.ts')), [])
})
