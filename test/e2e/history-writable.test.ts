import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { chmodSync, mkdirSync, mkdtempSync, rmdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, type TestContext, test } from 'node:test'
import { at, circuitIs, freePort, programMain, startProgram, startProxy, until } from '../support/harness.js'
import { ask, configure, FAST } from '../support/http-client.js'
import { unshareOrSkip } from '../support/outputs.js'
import { simulate } from '../support/simulate.js'

type Place = {
  readonly url: string
  /** Makes the file unwritable; without it the file is unwritable from the start. */
  readonly fail?: () => void
  readonly heal: () => unknown
}

type MakePlace = (t: TestContext, upstream: string, directory: string) => Promise<Place | undefined>

const PLACES: readonly (readonly [what: string, make: MakePlace])[] = [
  [
    'on a disk that fills up',
    async (t, upstream, directory) => {
      if (!unshareOrSkip(t, '-rm', 'mount', '-t', 'tmpfs', 'none', '/mnt')) return undefined
      const { url, disk } = await onDiskOf(t, upstream, directory, '256k')
      const filler = join(disk, 'filler')
      return {
        url,
        fail: () => assert.notEqual(spawnSync('dd', ['if=/dev/zero', `of=${filler}`, 'bs=4k']).status, 0),
        heal: () => rmSync(filler),
      }
    },
  ],
  [
    'in a folder of another user',
    async (t, upstream, directory) => {
      const file = join(directory, 'folder', 'history.jsonl')
      mkdirSync(join(directory, 'folder'))
      chmodSync(directory, 0o755)
      chmodSync(join(directory, 'folder'), 0o555)
      const { url } = await serving(t, upstream, file, unprivileged())
      return { url, heal: () => chmodSync(join(directory, 'folder'), 0o777) }
    },
  ],
  [
    'that a folder has replaced',
    async (t, upstream, directory) => {
      const file = join(directory, 'history.jsonl')
      const { url } = await serving(t, upstream, file)
      const fail = () => {
        rmSync(file)
        mkdirSync(file)
      }
      return { url, fail, heal: () => rmdirSync(file) }
    },
  ],
  [
    'that another process writes',
    async (t, upstream, directory) => {
      const file = join(directory, 'history.jsonl')
      const first = await serving(t, upstream, file)
      const { url } = await serving(t, upstream, file)
      return { url, heal: first.stop }
    },
  ],
]

describe('the metric history_writable', { concurrency: 3 }, () => {
  for (const [what, make] of PLACES) {
    test(`is 0 from a failed write until a successful one, for a file ${what}`, async t => {
      const { simulator } = await simulate(t)
      const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-writable-'))
      t.after(() => rmSync(directory, { recursive: true, force: true, maxRetries: 40, retryDelay: 50 }))
      const place = await make(t, simulator.url, directory)
      if (place === undefined) return
      const { url, fail, heal } = place
      if (fail !== undefined) {
        assert.equal(await writable(url), '1')
        fail()
        await simulator.setFiber('missing')
        await circuitIs({ url }, 'open')
      }
      // The last page of a file on a full disk has space for a few more lines.
      let count = 0
      await until(async () => {
        count += 1
        await configure({ url }, { headers: { 'x-test-run': `run-${count}` } })
        return (await writable(url)) === '0'
      })
      assert.equal(
        at(await (await fetch(`${url}/-/status`)).json(), 'circuit', 'state'),
        fail ? 'open' : 'closed',
      )
      await heal()
      await until(async () => (await writable(url)) === '1', { timeoutMs: 30_000 })
    })
  }

  test('is absent without a history file', async t => {
    const { simulator } = await simulate(t)
    const { url } = await startProxy(t, { upstream: simulator.url })
    assert.equal(await writable(url), undefined)
  })

  test('is 0 for a file with other contents, which is left unchanged', async t => {
    const { simulator } = await simulate(t)
    const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-writable-'))
    t.after(() => rmSync(directory, { recursive: true, force: true }))
    const file = join(directory, 'notes.md')
    writeFileSync(file, '# Notes\n')
    const { url } = await startProxy(t, {
      upstream: simulator.url,
      env: { FOCUS_BREAKER_HISTORY_FILE: file },
    })
    assert.equal(await writable(url), '0')
  })
})

async function writable(url: string): Promise<string | undefined> {
  const text = (await ask(`${url}/-/metrics`)).bytes.toString()
  return /^focus_breaker_history_writable (\d)$/m.exec(text)?.[1]
}

/** The proxy with this file. `before` is a command that runs it. */
async function serving(t: TestContext, upstream: string, file: string, before: readonly string[] = []) {
  const port = await freePort()
  const serve = [
    ...[process.execPath, programMain, 'serve', '--upstream', upstream],
    ...['--host', '127.0.0.1', '--port', String(port)],
  ]
  const [command = '', ...args] = [...before, ...serve]
  const { pid, stop } = await startProgram(t, {
    ...{ command, args, env: { ...process.env, ...FAST, FOCUS_BREAKER_HISTORY_FILE: file } },
    readyWhen: line => (line.includes('"msg":"listening"') ? true : undefined),
  })
  return { url: `http://127.0.0.1:${port}`, pid, stop }
}

/** The same on a file system of this size that only this process uses. */
async function onDiskOf(t: TestContext, upstream: string, directory: string, size: string) {
  const script = `mount -t tmpfs -o size=${size} none "$0" && exec "$@"`
  const before = ['unshare', '-rm', 'sh', '-c', script, directory]
  const { url, pid } = await serving(t, upstream, join(directory, 'history.jsonl'), before)
  return { url, disk: `/proc/${pid}/root${directory}` }
}

/** Runs a command as a user to whom permissions apply. They do not apply to root. */
function unprivileged(): readonly string[] {
  return process.getuid?.() === 0 ? ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups'] : []
}
