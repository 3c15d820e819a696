import assert from 'node:assert/strict'
import { test } from 'node:test'
import { freePort, until } from '../support/harness.js'
import { builtImage, runContainer } from '../support/image.js'
import { simulate } from '../support/simulate.js'

/** What the manifests allow a container, and less. */
const HARDENED = [
  '--read-only',
  '--cap-drop=ALL',
  '--security-opt=no-new-privileges',
  '--memory=96m',
  '--user=1000',
]

test('the image runs without a writable disk, capabilities and new privileges, in 96 MiB', async t => {
  const image = await builtImage(t)
  if (image === undefined) return
  const { simulator } = await simulate(t)
  const port = await freePort()
  const container = await runContainer(t, image, {
    flags: HARDENED,
    command: ['serve', '--upstream', simulator.url, '--host', '127.0.0.1', '--port', String(port)],
  })
  await until(async () => (await container.output()).includes('"listening"'))
  assert.equal((await fetch(`http://127.0.0.1:${port}/channels`)).status, 200)
  await container.signal('SIGTERM')
  assert.equal(await container.ended(), 0)
})
