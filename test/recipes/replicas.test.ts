import assert from 'node:assert/strict'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { Redis } from 'ioredis'
import { parse as parseYaml, stringify } from 'yaml'
import { certificateAuthority } from '../support/certificate-authority.js'
import {
  at,
  circuitIs,
  freePort,
  repositoryRoot,
  requireOrSkip,
  startProxy,
  testTools,
  until,
} from '../support/harness.js'
import {
  destinationOf,
  listAt,
  type Manifest,
  Manifests,
  named,
  one,
  parse,
  podOf,
  succeeded,
} from '../support/manifests.js'
import { assertProbesAnswer, POD_TOKEN, type Secrets, startPod, variablesOf } from '../support/pod.js'
import { Page } from '../support/recipe-page.js'
import { type Directive, type RedisServer, redisServer } from '../support/redis.js'
import { simulate } from '../support/simulate.js'

const USER = 'focus-breaker'

/** The user with all permissions, for the test itself. */
const ADMIN: Directive = ['user', 'admin', 'reset', 'on', '>admin', '~*', '&*', '+@all']

test('the Redis user may do only what the program does', () => {
  const sources = readdirSync(join(repositoryRoot, 'src'), { recursive: true, encoding: 'utf8' })
    .filter(file => file.endsWith('.ts'))
    .map(file => readFileSync(join(repositoryRoot, 'src', file), 'utf8'))
    .filter(text => /\bRedis\b/.test(text) || text.includes('redis.call('))
    .join('\n')
  const isUsed = (name: string) =>
    sources.includes(`redis.call('${name.toUpperCase()}'`) || sources.includes(`.${name}(`)
  const read = (file: string) => readFileSync(join(repositoryRoot, file), 'utf8')
  const texts = [
    new Page('replicas.md').take('text'),
    read('deploy/kubernetes/components/valkey/valkey.yaml'),
    read('deploy/compose/replicas.yaml'),
  ]
  const allowedBy = (text: string) => [...text.matchAll(/\s\+([a-z@|]+)/g)].map(([, name = '']) => name)
  const [allowed = [], ...others] = texts.map(allowedBy)
  assert.ok(allowed.length > 10)
  for (const other of others) assert.deepEqual(other, allowed)
  assert.deepEqual(
    allowed.filter(name => !isUsed(name)),
    [],
  )
  // The reverse: the commands in scripts are checked here, and those that are sent are checked below, in the log of the
  // server.
  const inScripts = [...sources.matchAll(/redis\.call\('([A-Z]+)'/g)].map(([, name = '']) =>
    name.toLowerCase(),
  )
  assert.deepEqual(
    inScripts.filter(name => !allowed.includes(name)),
    [],
  )
  for (const text of texts) {
    assert.match(text, /-@all/)
    // Keys of any version of ours, and no other key or channel.
    const patterns = [...text.matchAll(/\s([~%][^\s|]+|&\*)/g)].map(([, pattern]) => pattern)
    assert.deepEqual(patterns, ['~focus-breaker:*'])
  }
})

test('the Pods of the page act as one through a server that runs as its Deployment says, and continue without it', async t => {
  if (!requireOrSkip(t, 'kubectl', 'openssl', 'redis-server')) return
  const page = new Page('replicas.md')
  const manifests = withKubectl(t)
  manifests.write('kustomization.yaml', page.take('kustomization.yaml'))
  // The first two concern processes and the server.
  page.take('bash')
  page.take('bash')
  const printed = shell(manifests, page.take('bash'))
  const applied = parse(readFileSync(join(manifests.directory, 'applied.yaml'), 'utf8'))
  const made = secretsOf(printed)
  const url = new URL(made['focus-breaker-valkey']?.url ?? '')
  assert.deepEqual(destinationOf(applied, url.hostname, Number(url.port)), {
    ...{ deployment: 'focus-breaker-valkey', container: 'valkey', port: 6379 },
  })

  const server = await valkeyOf(t, applied, made)
  const secrets = {
    'focus-breaker': { token: POD_TOKEN },
    'focus-breaker-valkey': {
      ...made['focus-breaker-valkey'],
      url: url.href.replace(url.host, `127.0.0.1:${server.port}`),
    },
  }
  const { simulator } = await simulate(t, { fiber: 'present' })
  const cluster = [...applied, ...serverManifests()]
  const start = (name: string) =>
    startPod(t, applied, 'focus-breaker', simulator.url, { cluster, secrets, name })
  const pods = [await start('focus-breaker-5d9c-aaaaa'), await start('focus-breaker-5d9c-bbbbb')] as const
  for (const pod of pods) {
    await assertProbesAnswer(pod.healthUrl, pod.container)
    await circuitIs(pod, 'closed')
  }
  const [first, second] = pods
  const admits = () => Promise.all(pods.map(async pod => (await fetch(`${pod.url}/-/fiber`)).status === 200))
  const bothAre = (isAdmitting: boolean, what: string) =>
    until(async () => (await admits()).every(each => each === isAdmitting), { what, timeoutMs: 20_000 })
  const overrideReachesBoth = async (when: string) => {
    await override(first.url, { state: 'open', reason: 'a recipe is tried out', forSeconds: 600 })
    await bothAre(false, `an override applies at both ${when}`)
    await override(second.url)
    await bothAre(true, `its removal applies at both ${when}`)
  }
  await overrideReachesBoth('at once')
  await simulator.setFiber('missing')
  await bothAre(false, 'both refuse')
  await simulator.setFiber('present')
  await bothAre(true, 'both admit again')

  // The user may do all of that.
  const admin = server.client({ username: 'admin', password: 'admin' })
  assert.deepEqual(await admin.acl('LOG'), [])
  const keys = await admin.keys('*')
  assert.ok(keys.length > 0)
  for (const key of keys) {
    assert.match(key, /^focus-breaker:1:\{127\.0\.0\.1:\d+\}:/)
    assert.ok((await admin.pttl(key)) > 0, `${key} does not expire`)
  }

  await server.kill()
  await simulator.setFiber('missing')
  await bothAre(false, 'both refuse without the server')
  await simulator.setFiber('present')
  await bothAre(true, 'both admit again without the server')
  await server.start()
  const back = server.client({ username: 'admin', password: 'admin' })
  await until(async () => (await back.keys('*')).length >= keys.length, {
    what: 'both have joined the empty server',
    timeoutMs: 20_000,
  })
  await overrideReachesBoth('after they have joined the empty server')
  for (const pod of pods) assert.equal(await pod.program.stop(), 0)
})

test('removing the component leaves nothing of it, and deletes nothing else', t => {
  if (!requireOrSkip(t, 'kubectl', 'openssl')) return
  const page = new Page('replicas.md')
  const manifests = withKubectl(t)
  const kustomization: unknown = parseYaml(page.take('kustomization.yaml'))
  const render = (components: readonly unknown[]) => {
    manifests.write('kustomization.yaml', stringify({ ...Object(kustomization), components }))
    return manifests.render('.')
  }
  const components = listAt(kustomization, 'components')
  const added = render(components)
  const left = render(components.filter(name => !String(name).endsWith('/valkey')))
  assert.equal(at(one(left, 'Deployment'), 'spec', 'replicas'), 1)
  const nameOf = (manifest: Manifest) =>
    `${String(manifest.kind).toLowerCase()} ${at(manifest, 'metadata', 'name')}`.replace(/-[a-z0-9]{10}$/, '')
  const kept = left.map(nameOf)
  const only = added.map(nameOf).filter(name => !kept.includes(name))

  const [, , , , back = ''] = Array.from({ length: 5 }, () => page.take('bash'))
  const deleted = [...shell(manifests, back).matchAll(/^delete (\S+) (\S+)$/gm)].flatMap(
    ([, kinds = '', name]) => kinds.split(',').map(kind => `${kind} ${name}`),
  )
  assert.deepEqual(deleted.toSorted(), [...only, 'secret focus-breaker-valkey'].toSorted())
})

test('the configuration of the page connects to a server with TLS and the user of the page', async t => {
  if (!requireOrSkip(t, 'openssl', 'redis-server')) return
  const page = new Page('replicas.md')
  const manifests = new Manifests(t)
  const password = 'b@tt/ery'
  assert.match(page.take('bash'), /^npm install --global ioredis@\d+\.\d+\.\d+\n$/)
  const hash = shell(manifests, `password='${password}'\n${page.take('bash')}`).trim()
  const { ca, caFile, directory, issue } = certificateAuthority(t)
  const { certFile, keyFile } = issue()
  const tlsPort = await freePort()
  const directives = page
    .take('text')
    .replace('PASSWORD-SHA256', hash)
    .replace('/etc/redis/server.pem', certFile)
    .replace('/etc/redis/server.key', keyFile)
    .replace(/^tls-port .*$/m, `tls-port ${tlsPort}`)
    .trim()
    .split('\n')
    .filter(line => !line.startsWith('#'))
    .map((line): Directive => {
      const [name = '', ...values] = line.split(' ').map(word => word.replace('""', ''))
      return [name, ...values]
    })
  await redisServer(t, [...directives, ADMIN])
  const urlFile = join(directory, 'redis-url')
  writeFileSync(urlFile, `rediss://${USER}:${encodeURIComponent(password)}@localhost:${tlsPort}/0\n`)
  const config = join(directory, 'focus-breaker.yaml')
  const text = page
    .take('focus-breaker.yaml')
    .replace('/etc/focus-breaker/redis-url', urlFile)
    .replace('/etc/focus-breaker/redis-ca.pem', caFile)
  writeFileSync(config, text)
  const { simulator } = await simulate(t)
  const admin = new Redis({
    ...{ host: 'localhost', port: tlsPort, username: 'admin', password: 'admin', tls: { ca } },
  })
  t.after(() => admin.disconnect())
  const proxy = await startProxy(t, { upstream: simulator.url, args: ['--config', config] })
  await until(async () => (await admin.keys('focus-breaker:1:*:members')).length === 1, {
    what: 'it has joined',
  })
  // No other login works.
  assert.deepEqual(await admin.acl('LOG'), [])
  const stranger = new Redis({ host: 'localhost', port: tlsPort, tls: { ca }, retryStrategy: () => null })
  stranger.on('error', () => undefined)
  t.after(() => stranger.disconnect())
  await assert.rejects(stranger.get('focus-breaker:1'), /NOAUTH|closed/)
  assert.doesNotMatch(JSON.stringify(proxy.logs()), /tt\/ery|tt%2Fery/)
  assert.equal(await proxy.stop(), 0)
})

test('every block of the page is tried', () => {
  const page = new Page('replicas.md')
  for (const file of ['focus-breaker.yaml', 'text', 'kustomization.yaml']) page.take(file)
  // The blocks for the client, the hash, the Secrets, Compose and the removal.
  const blocks = Array.from({ length: 5 }, () => page.take('bash'))
  page.assertAllTaken()
  const compose = readFileSync(join(repositoryRoot, 'deploy/compose/replicas.yaml'), 'utf8')
  const [first, ...lines] = (blocks[3] ?? '').trim().split('\n')
  assert.equal(first, 'cd deploy/compose')
  for (const line of lines) assert.ok(compose.includes(`#   ${line}\n`), line)
})

/** A folder with `deploy`, and a kubectl that keeps what it would send to a cluster. */
function withKubectl(t: TestContext): Manifests {
  const manifests = new Manifests(t)
  manifests.write(
    'bin/kubectl',
    `#!/bin/bash
if [ "$1" = apply ]; then '${testTools.kubectl}' kustomize "$3" > applied.yaml || exit 1; fi
echo "$*"
`,
  )
  manifests.run('/bin/chmod', ['+x', 'bin/kubectl'])
  return manifests
}

function shell(manifests: Manifests, script: string): string {
  return succeeded(
    manifests.run('/bin/bash', ['-e', '-o', 'pipefail', '-c', `PATH="$PWD/bin:$PATH"\n${script}`]),
  )
}

/** The Secrets that were created, from the arguments of kubectl. */
function secretsOf(printed: string): Secrets {
  const lines = [...printed.matchAll(/^create secret generic (\S+) (.*)$/gm)]
  return Object.fromEntries(
    lines.map(([, name = '', rest = '']) => [
      name,
      Object.fromEntries(
        [...rest.matchAll(/--from-literal=([\w-]+)=(\S+)/g)].map(([, key = '', value = '']) => [key, value]),
      ),
    ]),
  )
}

/** A real server with the arguments of the Valkey Deployment, on a free port of loopback. */
function valkeyOf(t: TestContext, rendered: readonly Manifest[], secrets: Secrets): Promise<RedisServer> {
  const pod = podOf(one(rendered, 'Deployment', 'focus-breaker-valkey'))
  const container = named(listAt(pod, 'spec', 'containers'), 'valkey')
  assert.deepEqual(at(container, 'command'), ['valkey-server'])
  const variables = variablesOf(container, secrets, 'focus-breaker-valkey-0')
  const directives: string[][] = []
  for (const arg of listAt(container, 'args').map(String)) {
    const text = arg.replace(/\$\((\w+)\)/g, (_, name) => variables.get(name) ?? assert.fail(`no ${name}`))
    if (text.startsWith('--')) directives.push([text.slice(2)])
    else directives.at(-1)?.push(text)
  }
  const own = directives.flatMap(([name = '', ...values]): readonly Directive[] =>
    // The port is that of the container.
    name === 'port' ? [] : [[name, ...values]],
  )
  assert.ok(own.some(([name, user]) => name === 'user' && user === USER))
  return redisServer(t, [...own, ADMIN])
}

/** focus-server, which is not part of these manifests. */
function serverManifests(): readonly Manifest[] {
  const labels = { app: 'focus-server' }
  const containers = [{ name: 'focus-server', ports: [{ containerPort: 5000 }] }]
  return [
    {
      kind: 'Deployment',
      metadata: { name: 'focus-server' },
      spec: { template: { metadata: { labels }, spec: { containers } } },
    },
    {
      kind: 'Service',
      metadata: { name: 'focus-server' },
      spec: { selector: labels, ports: [{ port: 5000 }] },
    },
  ]
}

/** Sets an override, or removes it. */
async function override(url: string, request?: object): Promise<void> {
  const response = await fetch(`${url}/-/override`, {
    method: request === undefined ? 'DELETE' : 'PUT',
    headers: { authorization: `Bearer ${POD_TOKEN}` },
    ...(request !== undefined && { body: JSON.stringify(request) }),
  })
  assert.ok(response.ok, String(response.status))
}
