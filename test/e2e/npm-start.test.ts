import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { describe, type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { repositoryRoot, until } from '../support/harness.js'
import { readLines } from '../support/lines.js'
import { rawUpstream, response } from '../support/raw.js'

/** `npm start` in front of an upstream that delays every response except the metadata, in its own process group. */
async function npmStart(t: TestContext) {
  const { port } = await rawUpstream(t, async ({ socket }) => {
    await sleep(700)
    socket.write(response('200 OK', 'slow'))
  })
  // Without the prestart script, which would rebuild the program while other tests use it.
  const args = ['start', '--ignore-scripts', '--', '--host', '127.0.0.1', '--port', '0']
  const npm = spawn('npm', [...args, '--upstream', `http://127.0.0.1:${port}`], {
    cwd: repositoryRoot,
    env: { PATH: process.env.PATH, HOME: process.env.HOME },
    stdio: ['ignore', 'pipe', 'ignore'],
    detached: true,
  })
  const { pid = 0 } = npm
  t.after(() => {
    try {
      process.kill(-pid, 'SIGKILL')
    } catch {}
  })
  const ended = once(npm, 'exit')
  const lines: string[] = []
  readLines(npm.stdout, line => lines.push(line))
  const url = await until(() => /"url":"(http[^"]+)".*"msg":"listening"/.exec(lines.join('\n'))?.[1], {
    what: 'it listens',
    timeoutMs: 60_000,
  })
  return { pid, url, lines, ended }
}

/** Whether a process of this group still exists. */
function isLeft(group: number): boolean {
  try {
    process.kill(-group, 0)
    return true
  } catch {
    return false
  }
}

describe('npm start', { concurrency: 2 }, () => {
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    for (const target of ['npm only', 'its process group'] as const) {
      test(`forwards ${signal} to ${target} once: a request in flight is served, and the exit code is 0`, async t => {
        const { pid, url, lines, ended } = await npmStart(t)
        const answer = fetch(`${url}/slow`).then(each => each.text())
        await sleep(200)
        process.kill(target === 'npm only' ? pid : -pid, signal)
        assert.deepEqual(await ended, [0, null])
        assert.equal(await answer, 'slow')
        assert.match(lines.at(-1) ?? '', /"msg":"stopped"/)
        await until(() => !isLeft(pid))
      })
    }
  }

  test('leaves no orphan when npm is killed', async t => {
    const { pid, lines } = await npmStart(t)
    process.kill(pid, 'SIGKILL')
    await until(() => /"signal":"SIGTERM"[^\n]*"draining"/.test(lines.join('\n')))
    await until(() => !isLeft(pid), { timeoutMs: 20_000 })
  })
})
