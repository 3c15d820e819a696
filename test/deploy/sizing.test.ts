import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { parse } from 'yaml'
import { at, repositoryRoot } from '../support/harness.js'

const read = (file: string) => readFileSync(join(repositoryRoot, file), 'utf8')
const sizing = read('docs/explanation/sizing.md')

test('the resources that the page on sizing recommends are those of the manifests', () => {
  const [, block = ''] = /```yaml\n([\s\S]*?)```/.exec(sizing) ?? []
  const recommended = at(parse(block), 'resources')
  assert.ok(recommended !== undefined)
  for (const [file, list] of [
    ['base', 'containers'],
    ['overlays/sidecar', 'initContainers'],
  ] as const) {
    const containers = at(
      parse(read(`deploy/kubernetes/${file}/deployment.yaml`)),
      ...['spec', 'template', 'spec', list],
    )
    assert.ok(Array.isArray(containers))
    const ours = containers.find(container => at(container, 'name') === 'focus-breaker')
    assert.deepEqual(at(ours, 'resources'), recommended, file)
  }
})

test("everything that sets a memory limit also limits Node's heap to less", () => {
  const [, percentage] = /"--max-old-space-size-percentage=(\d+)"/.exec(read('Dockerfile')) ?? []
  assert.ok(sizing.includes(`--max-old-space-size-percentage=${percentage}`))
  assert.ok(read('docs/reference/image.md').includes(`V8 may use ${percentage} % of the container's memory`))
  const unit = read('deploy/systemd/focus-breaker.service')
  const [, limit] = /^MemoryMax=(\d+)M$/m.exec(unit) ?? []
  const [, heap] =
    /^Environment="NODE_OPTIONS=--max-old-space-size=(\d+) --max-semi-space-size=4"$/m.exec(unit) ?? []
  assert.equal(Number(heap), Number(limit) - 96)
  assert.ok(sizing.includes('the limit minus 96 MiB'))
})
