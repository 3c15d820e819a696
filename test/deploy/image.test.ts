import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import {
  chmodSync,
  chownSync,
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { connect } from 'node:tls'
import { Agent, Client } from 'undici'
import { cpuMs } from '../../bench/cpu-time.js'
import {
  at,
  circuitIs,
  freePort,
  repositoryRoot,
  requireOrSkip,
  testTools,
  until,
} from '../support/harness.js'
import { ask, configure, FAST, runClients } from '../support/http-client.js'
import {
  builtImage,
  type Container,
  documentedLines,
  podman,
  podmanOrFail,
  runContainer,
  runInNetworkOfItsOwn,
} from '../support/image.js'
import { mountedVolume } from '../support/mounted-volume.js'
import { selfSigned } from '../support/self-signed.js'
import { live, simulate } from '../support/simulate.js'

/** The settings that the tests give a container. */
const HARDENED = [
  '--read-only',
  '--cap-drop=ALL',
  '--security-opt=no-new-privileges',
  '--memory=96m',
] as const

/** The user of the manifests, and one that a cluster assigns to a namespace, as OpenShift does. */
const USERS = ['1000', '1000690000:0'] as const

/**
 * The image on base images of this machine; those that the Dockerfile names have up to 35 MB more libraries and time
 * zones.
 */
const MAX_IMAGE_BYTES = 150_000_000
const MAX_PROGRAM_BYTES = 7_000_000

/** The memory that the proxy may use with a thousand connections, out of its limit of 96 MiB. */
const MAX_BUSY_BYTES = 94 * 2 ** 20

/** The documented command that reloads the configuration without a shell. */
const RELOAD = ['node', '-e', 'process.kill(1, "SIGHUP")'] as const

/** Tests that cover most of what the program does, in a few seconds. */
const END_TO_END = ['outage', 'observe', 'runs']

/** A proxy in a container. */
interface Proxy extends Container {
  readonly url: string
}

async function serveIn(
  t: TestContext,
  image: string,
  upstream: string,
  options: {
    readonly user?: string
    readonly env?: Readonly<Record<string, string>>
    readonly volumes?: readonly string[]
    readonly protocol?: 'http' | 'https'
    readonly isReady?: boolean
  } = {},
): Promise<Proxy> {
  const { user = '1000', env = {}, volumes = [], protocol = 'http', isReady = true } = options
  const port = await freePort()
  const container = await runContainer(t, image, {
    flags: [
      ...HARDENED,
      `--user=${user}`,
      ...volumes.map(volume => `--volume=${volume}`),
      ...Object.entries(env).flatMap(([name, value]) => ['--env', `${name}=${value}`]),
    ],
    command: ['serve', '--upstream', upstream, '--host', '127.0.0.1', '--port', String(port)],
  })
  if (isReady)
    await until(async () => (await container.output()).includes('"listening"'), { timeoutMs: 30_000 })
  return { ...container, url: `${protocol}://127.0.0.1:${port}` }
}

/** Stops it with SIGTERM. */
async function assertStops(container: Container): Promise<void> {
  await container.signal('SIGTERM')
  assert.equal(await container.ended(), 0)
  assert.equal(at(await container.inspect(), 'State', 'OOMKilled'), false)
}

/** A folder that a container with another user can read, removed after the test. */
function folderFor(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'focus-breaker-image-'))
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  chmodSync(folder, 0o755)
  return folder
}

/** A mounted volume, and its folder, which every user can read. */
function volumeFor(t: TestContext, files: Readonly<Record<string, string>>) {
  const volume = mountedVolume(t, files)
  const folder = volume.path('.')
  chmodSync(folder, 0o755)
  return { ...volume, folder }
}

/** The memory that the kernel counts for the container, without files that it can read again. */
function memoryOf({ pid }: Container): number {
  const [, version2, version1] =
    /^0::(\/\S+)$|^\d+:memory:(\/\S*)$/m.exec(
      readFileSync(`/proc/${pid}/cgroup`, 'utf8').replace(/^0::\/$/m, ''),
    ) ?? []
  const [folder, name] =
    version1 === undefined
      ? [`/sys/fs/cgroup${version2}`, 'anon']
      : [`/sys/fs/cgroup/memory${version1}`, 'rss']
  const bytes = new RegExp(`^${name} (\\d+)$`, 'm').exec(
    readFileSync(join(folder, 'memory.stat'), 'utf8'),
  )?.[1]
  assert.ok(bytes !== undefined)
  return Number(bytes)
}

/** The paths of the files in the image. */
async function filesOf(t: TestContext, image: string): Promise<{ root: string; paths: readonly string[] }> {
  const { stdout } = await podmanOrFail('image', 'mount', image)
  t.after(() => podmanOrFail('image', 'unmount', image))
  const root = stdout.trim()
  const entries = readdirSync(root, { recursive: true, withFileTypes: true })
  const paths = entries
    .filter(entry => !entry.isDirectory())
    .map(entry => join(entry.parentPath, entry.name).slice(root.length))
  return { root, paths }
}

test('the image holds only node, its libraries and the program', async t => {
  const image = await builtImage(t)
  if (image === undefined) return
  const { root, paths } = await filesOf(t, image)
  const matching = (what: RegExp) => paths.filter(path => what.test(path))
  assert.deepEqual(readdirSync(join(root, 'app')).sort(), [
    'LICENSE',
    'THIRD-PARTY-LICENSES',
    'config',
    'dist',
    'focus-breaker.cdx.json',
    'package.json',
    'page',
  ])
  assert.deepEqual(matching(/\.(map|ts|mts|cts|md)$|\.test\.|\/node_modules\//), [])
  assert.deepEqual(
    matching(/\/(sh|bash|dash|ash|busybox|npm|npx|corepack|env|apt|dpkg)$/),
    [],
    'a base image of libraries has no programs',
  )
  assert.deepEqual(matching(/\/bin\//), ['/usr/local/bin/node'])
  assert.deepEqual(matching(/^\/app\/dist\/cli\/(main|healthcheck)\.js$/).length, 2)
  assert.deepEqual(readdirSync(join(root, 'app/config')), ['default.yaml'])

  const sizeOf = (path: string) => readFileSync(join(root, path)).length
  const program = matching(/^\/app\//).reduce((sum, path) => sum + sizeOf(path), 0)
  const { stdout } = await podmanOrFail('image', 'inspect', '--format', '{{.Size}}', image)
  const mega = (bytes: number) => `${(bytes / 1e6).toFixed(1)} MB`
  t.diagnostic(`the image has ${mega(Number(stdout))}, the program with its dependencies ${mega(program)}`)
  assert.ok(Number(stdout) < MAX_IMAGE_BYTES)
  assert.ok(program < MAX_PROGRAM_BYTES)
})

test('the image lists the packages in its program as they are in the lock file, with their licenses', async t => {
  const image = await builtImage(t)
  if (image === undefined) return
  const { root } = await filesOf(t, image)
  const read = (path: string) => readFileSync(join(root, 'app', path), 'utf8')
  const list: unknown = JSON.parse(read('focus-breaker.cdx.json'))
  assert.equal(at(list, 'metadata', 'component', 'name'), 'focus-breaker')
  const components = at(list, 'components')
  assert.ok(Array.isArray(components))
  const listed = new Set(components.map(each => `${at(each, 'purl')}`))
  const lock: unknown = JSON.parse(readFileSync(join(repositoryRoot, 'package-lock.json'), 'utf8'))
  const locked = Object.entries(Object(at(lock, 'packages'))).filter(
    ([path, each]) =>
      path !== '' &&
      at(each, 'dev') !== true &&
      at(each, 'peer') !== true &&
      at(each, 'devOptional') !== true,
  )
  // The client for replicas, which is optional elsewhere, and its dependencies.
  const add = (name: string) => {
    const path = `node_modules/${name}`
    const entry = at(lock, 'packages', path)
    if (locked.some(([known]) => known === path)) return
    locked.push([path, entry])
    for (const needed of Object.keys(Object(at(entry, 'dependencies') ?? {}))) add(needed)
  }
  add('ioredis')
  const nameOf = (path: string) => path.slice(path.lastIndexOf('node_modules/') + 'node_modules/'.length)
  assert.deepEqual(
    [...listed].sort(),
    [
      ...new Set(
        locked.map(([path, each]) => `pkg:npm/${nameOf(path).replace('@', '%40')}@${at(each, 'version')}`),
      ),
    ].sort(),
  )
  const licenses = read('THIRD-PARTY-LICENSES')
  for (const [name, license] of [
    ['undici', 'Copyright (c) Matteo Collina and Undici contributors'],
    ['fastify', 'Copyright (c) 2016-present The Fastify team'],
    ['ioredis', 'Copyright (c) 2015-2022 Zihua Li'],
  ] as const) {
    assert.match(licenses, new RegExp(`^${name} \\d+\\.\\d+\\.\\d+, MIT$`, 'm'))
    assert.ok(licenses.includes(license), name)
  }
  // Node also contains third-party code, such as OpenSSL.
  assert.match(licenses, /^Node\.js v24\.\d+\.\d+$/m)
  assert.match(licenses, /^- OpenSSL, located at deps\/openssl, is licensed as follows:$/m)
  assert.equal(read('LICENSE'), readFileSync(join(repositoryRoot, 'LICENSE'), 'utf8'))
})

test('the image has the client for replicas in a separate file, which only replicas load', async t => {
  const image = await builtImage(t)
  if (image === undefined) return
  const { root } = await filesOf(t, image)
  const folder = join(root, 'app/dist/cli')
  const files = readdirSync(folder).map(file => ({ file, text: readFileSync(join(folder, file), 'utf8') }))
  const holders = files.filter(({ text }) => text.includes('// node_modules/ioredis/'))
  assert.equal(holders.length, 1)
  const file = holders[0]?.file ?? ''
  // A static import would load it in every proxy.
  const importing = files.flatMap(({ text }) => text.split('\n').filter(line => line.includes(file)))
  assert.ok(importing.length > 0)
  for (const line of importing) assert.match(line, /\bimport\("\.\/[^"]+"\)/)

  const { stdout, stderr, status } = await podman(
    ...['run', '--rm', '--no-healthcheck', '--env', 'FOCUS_BREAKER_UPSTREAM_URL=http://192.0.2.1:5000'],
    ...['--env', 'FOCUS_BREAKER_REPLICAS_URL=redis://me:battery@192.0.2.7', image, 'serve', '--check-config'],
  )
  assert.equal(status, 0, stderr)
  assert.match(stdout, /url: redis:\/\/\*\*\*@192\.0\.2\.7 #/)
})

test('a build on a Node version that could not start the image fails at once and says so', t => {
  if (!requireOrSkip(t, 'node20', 'node22', 'node24')) return
  const flag = readFileSync(join(repositoryRoot, 'Dockerfile'), 'utf8').match(/"(--[\w-]+)=/)?.[1]
  for (const [node, canStart] of [
    [testTools.node20, false],
    [testTools.node22, true],
    [testTools.node24, true],
  ] as const) {
    const folder = folderFor(t)
    cpSync(join(repositoryRoot, 'package.json'), join(folder, 'package.json'))
    const { status, stderr } = spawnSync(node, [join(repositoryRoot, 'deploy/image/keep-bundler.mjs')], {
      cwd: folder,
      encoding: 'utf8',
    })
    assert.equal(status, canStart ? 0 : 1)
    if (!canStart) assert.match(stderr, new RegExp(`does not support ${flag}\\. Use Node 24`))
    // Node would end at this flag.
    assert.equal(spawnSync(node, [`${flag}=40`, '--version']).status === 0, canStart)
  }
})

test('the program in the image passes tests of the program', async t => {
  const image = await builtImage(t)
  if (image === undefined) return
  const { root } = await filesOf(t, image)
  const files = END_TO_END.map(name => join(repositoryRoot, `.build/test/e2e/${name}.test.js`))
  // Otherwise the runner of this test would take the output for its own.
  const { NODE_TEST_CONTEXT: _, ...env } = process.env
  const child = spawn(testTools.node24, ['--test', '--test-reporter=tap', ...files], {
    env: { ...env, TEST_MAIN: join(root, 'app/dist/cli/main.js') },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let printed = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    printed += text
  })
  const [code] = await once(child, 'close')
  t.diagnostic(`${/^# pass \d+$/m.exec(printed)?.[0]}`)
  assert.equal(code, 0, printed)
  assert.match(printed, /^# skipped 0$/m)
})

test('the image has labels that describe it, and runs as a numeric user', async t => {
  const image = await builtImage(t)
  if (image === undefined) return
  const manifest: unknown = JSON.parse(readFileSync(join(repositoryRoot, 'package.json'), 'utf8'))
  const version = at(manifest, 'version')
  const inspected: unknown = JSON.parse((await podmanOrFail('image', 'inspect', image)).stdout)
  const config = at(inspected, 0, 'Config')
  const label = (name: string) => at(config, 'Labels', `org.opencontainers.image.${name}`)
  assert.equal(label('version'), version)
  assert.equal(label('licenses'), at(manifest, 'license'))
  assert.equal(label('title'), at(manifest, 'name'))
  assert.match(String(label('description')), /reverse proxy/)
  assert.equal(at(config, 'User'), '1000:1000')
  assert.deepEqual(at(config, 'Cmd'), ['serve'])
  assert.deepEqual(Object.keys(Object(at(config, 'ExposedPorts'))), ['8080/tcp'])
  // The exec form, because the image has no shell for the other one.
  assert.deepEqual(at(config, 'Entrypoint'), [
    '/usr/local/bin/node',
    '--max-old-space-size-percentage=40',
    'dist/cli/main.js',
  ])
  assert.deepEqual(at(inspected, 0, 'Healthcheck', 'Test'), [
    'CMD',
    '/usr/local/bin/node',
    'dist/cli/healthcheck.js',
  ])
  const { stdout } = await podmanOrFail('run', '--rm', '--no-healthcheck', image, '--version')
  assert.equal(stdout.trim(), version)
})

test('the Dockerfile needs only the built-in builder of the engine, and names its base images in full', () => {
  const dockerfile = readFileSync(join(repositoryRoot, 'Dockerfile'), 'utf8')
  assert.doesNotMatch(dockerfile, /^#\s*syntax/m)
  assert.match(dockerfile, /^ARG BUILD_IMAGE=docker\.io\/library\/node:24\.\d+-\S+$/m)
  assert.match(dockerfile, /^ARG RUN_IMAGE=\S+\.\S+\/\S+$/m)
  const [, runStage = ''] = dockerfile.split(/^FROM \$\{RUN_IMAGE\}$/m)
  assert.doesNotMatch(runStage, /^RUN /m)
})

for (const user of USERS) {
  test(`user ${user} serves through an outage in 96 MiB, without a writable disk, capabilities or new privileges`, async t => {
    const image = await builtImage(t)
    if (image === undefined) return
    const { simulator } = await simulate(t)
    const proxy = await serveIn(t, image, simulator.url, { user, env: FAST })
    const status = readFileSync(`/proc/${proxy.pid}/status`, 'utf8')
    assert.match(status, new RegExp(`^Uid:\\s+${user.split(':')[0]}\\s`, 'm'))
    assert.match(status, /^CapEff:\s+0+$/m)
    assert.match(status, /^NoNewPrivs:\s+1$/m)
    const written = await proxy.exec('node', '-e', 'require("node:fs").writeFileSync("/app/x", "")')
    assert.notEqual(written.status, 0)
    assert.match(written.stderr, /EROFS/)

    await circuitIs(proxy, 'closed')
    const channels = await ask(`${proxy.url}/channels`)
    assert.equal(channels.statusCode, 200)
    const large = randomBytes(1_000_000).toString('hex')
    assert.equal((await configure(proxy)).statusCode, 200)
    assert.equal((await configure(proxy, { body: JSON.stringify({ ...live, large }) })).statusCode, 200)
    assert.equal((await ask(`${proxy.url}/-/`)).statusCode, 200)

    await simulator.setFiber('missing')
    await circuitIs(proxy, 'open')
    const before = simulator.counters.byRoute['POST /configure']
    const refused = await configure(proxy)
    assert.equal(refused.statusCode, 503)
    assert.equal(at(refused.json, 'status'), 'waiting_for_fiber')
    assert.equal(simulator.counters.byRoute['POST /configure'], before)
    await simulator.setFiber('present')
    await circuitIs(proxy, 'closed')
    assert.equal((await configure(proxy)).statusCode, 200)

    const healthy = await proxy.exec('/usr/local/bin/node', 'dist/cli/healthcheck.js')
    assert.match(healthy.stdout, /^http:.* responded with 200$/m)
    assert.equal(healthy.status, 0)

    // A request in flight is served to its end.
    await simulator.setFault('GET /channels', { kind: 'slow', delayMs: 500 })
    const slow = ask(`${proxy.url}/channels`)
    await until(() => (simulator.counters.byRoute['GET /channels'] ?? 0) >= 2)
    await assertStops(proxy)
    assert.equal((await slow).statusCode, 200)
  })
}

test('SIGTERM ends the first process of a container with exit code 0, while it loads and while it serves', async t => {
  const image = await builtImage(t)
  if (image === undefined) return
  const { simulator } = await simulate(t)
  // Progress is measured in CPU time of the process, which does not depend on other load on this machine.
  const stop = async (afterCpuMs: number) => {
    const proxy = await serveIn(t, image, simulator.url, { isReady: false })
    await until(() => (cpuMs(proxy.pid) ?? 0) >= afterCpuMs, { everyMs: 2, timeoutMs: 60_000 })
    await assertStops(proxy)
  }
  await stop(100)
  await stop(300)
  const serving = await serveIn(t, image, simulator.url)
  const startedAt = performance.now()
  await until(() => performance.now() - startedAt >= 5000, { timeoutMs: 60_000 })
  await assertStops(serving)
})

test('a thousand connections with all kinds of requests fit into 96 MiB', async t => {
  const image = await builtImage(t)
  if (image === undefined) return
  const { simulator } = await simulate(t)
  const proxy = await serveIn(t, image, simulator.url, {
    env: { ...FAST, FOCUS_BREAKER_SERVER_CLIENT_SHARE: '1' },
  })
  await circuitIs(proxy, 'closed')
  const healthy = await proxy.exec('/usr/local/bin/node', 'dist/cli/healthcheck.js')
  assert.equal(healthy.status, 0, healthy.stdout)
  const idle = memoryOf(proxy)
  const clients = Array.from({ length: 1000 }, () => new Client(proxy.url, { keepAliveTimeout: 60_000 }))
  t.after(() => Promise.all(clients.map(client => client.destroy())))
  const statuses = new Map<number, number>()
  let most = idle
  /** Each connection sends a request of each kind, a hundred connections at a time. */
  const round = async () => {
    const waiting = [...clients]
    await runClients(100, async () => {
      for (let client = waiting.pop(); client !== undefined; client = waiting.pop()) {
        const answers = [
          await ask(`${proxy.url}/channels`, { dispatcher: client }),
          await configure(proxy, { dispatcher: client }),
        ]
        for (const { statusCode } of answers) statuses.set(statusCode, (statuses.get(statusCode) ?? 0) + 1)
      }
    })
    most = Math.max(most, memoryOf(proxy))
  }
  await round()
  await simulator.setFiber('missing')
  await circuitIs(proxy, 'open')
  for (let rounds = 0; rounds < 5; rounds += 1) await round()
  const sockets = clients.filter(({ stats }) => stats.connected).length
  const mebi = (bytes: number) => `${(bytes / 2 ** 20).toFixed(0)} MiB`
  t.diagnostic(
    `${mebi(idle)} idle, at most ${mebi(most)} with ${sockets} connections; ${[...statuses].join(' ')}`,
  )
  assert.equal(sockets, 1000)
  assert.ok((statuses.get(200) ?? 0) >= 6000)
  assert.ok((statuses.get(503) ?? 0) >= 5000)
  assert.ok(most < MAX_BUSY_BYTES, mebi(most))
  await assertStops(proxy)
})

test('a history on a volume of another user causes one warning, loses nothing, and is written as soon as possible', async t => {
  const image = await builtImage(t)
  if (image === undefined) return
  const { simulator } = await simulate(t)
  const folder = folderFor(t)
  const file = join(folder, 'history.jsonl')
  const proxy = await serveIn(t, image, simulator.url, {
    volumes: [`${folder}:/data`],
    env: { ...FAST, FOCUS_BREAKER_HISTORY_FILE: '/data/history.jsonl' },
  })
  const outage = async () => {
    await simulator.setFiber('missing')
    await circuitIs(proxy, 'open')
    assert.equal((await configure(proxy)).statusCode, 503)
    await simulator.setFiber('present')
    await circuitIs(proxy, 'closed')
  }
  const outages = async () => {
    const { json } = await ask(`${proxy.url}/-/outages`)
    const list = at(json, 'outages')
    assert.ok(Array.isArray(list))
    return list.map(each => String(at(each, 'id')))
  }
  await outage()
  await outage()
  const inMemory = await outages()
  assert.ok(inMemory.length >= 2)
  assert.equal(existsSync(file), false)
  const warnings = (await proxy.output()).split('\n').filter(line => line.includes('EACCES'))
  assert.equal(warnings.length, 1, warnings.join('\n'))
  assert.match(warnings[0] ?? '', /"level":"warn"/)

  chownSync(folder, 1000, 1000)
  await outage()
  await until(async () => (await proxy.output()).includes('"history file is writable again"'))
  assert.ok(existsSync(file))
  assert.equal((await proxy.output()).split('\n').filter(line => line.includes('EACCES')).length, 1)
  const kept = await outages()
  await assertStops(proxy)

  const next = await serveIn(t, image, simulator.url, {
    volumes: [`${folder}:/data`],
    env: { ...FAST, FOCUS_BREAKER_HISTORY_FILE: '/data/history.jsonl' },
  })
  const { json } = await ask(`${next.url}/-/outages`)
  const found = JSON.stringify(json)
  for (const id of [...inMemory, ...kept]) assert.ok(found.includes(id), id)
  await assertStops(next)
})

test('configuration, token and certificate are followed in mounted folders, and reloaded without a shell', async t => {
  const image = await builtImage(t)
  if (image === undefined) return
  const { simulator } = await simulate(t, { fiber: 'missing' })
  const [first, second] = [selfSigned(t), selfSigned(t)]
  const settings = volumeFor(t, { 'focus-breaker.yaml': 'guard: { statusCode: 503 }\n' })
  const secrets = volumeFor(t, { token: 'correct-horse-battery-staple' })
  const tls = volumeFor(t, { 'tls.crt': first.pem.cert, 'tls.key': first.pem.key })
  const proxy = await serveIn(t, image, simulator.url, {
    user: '1000690000:0',
    protocol: 'https',
    volumes: [
      `${settings.folder}:/etc/focus-breaker:ro`,
      `${secrets.folder}:/token:ro`,
      `${tls.folder}:/tls:ro`,
    ],
    env: {
      ...FAST,
      FOCUS_BREAKER_CONFIG: '/etc/focus-breaker/focus-breaker.yaml',
      FOCUS_BREAKER_ADMIN_TOKEN_FILE: '/token/token',
      FOCUS_BREAKER_SERVER_TLS_CERT_FILE: '/tls/tls.crt',
      FOCUS_BREAKER_SERVER_TLS_KEY_FILE: '/tls/tls.key',
    },
  })
  const dispatcher = new Agent({ connect: { rejectUnauthorized: false } })
  t.after(() => dispatcher.destroy())
  const statusOfRefusal = async () => (await configure(proxy, { dispatcher })).statusCode
  assert.equal(await statusOfRefusal(), 503)

  settings.replace({ 'focus-breaker.yaml': 'guard: { statusCode: 424 }\n' })
  assert.equal((await proxy.exec(...RELOAD)).status, 0)
  await until(async () => (await statusOfRefusal()) === 424)

  const reload = async (token: string) => {
    const headers = { authorization: `Bearer ${token}` }
    return (await ask(`${proxy.url}/-/reload`, { method: 'POST', headers, dispatcher })).statusCode
  }
  settings.replace({ 'focus-breaker.yaml': 'guard: { statusCode: 409 }\n' })
  assert.equal(await reload('correct-horse-battery-staple'), 200)
  assert.equal(await statusOfRefusal(), 409)
  secrets.replace({ token: 'another-horse-battery-staple' })
  await until(async () => (await reload('another-horse-battery-staple')) === 200)
  assert.equal(await reload('correct-horse-battery-staple'), 401)

  const served = () =>
    new Promise<string>((resolve, reject) => {
      const { hostname, port } = new URL(proxy.url)
      const socket = connect({ host: hostname, port: Number(port), rejectUnauthorized: false }, () => {
        resolve(socket.getPeerX509Certificate()?.toString().trim() ?? '')
        socket.destroy()
      })
      socket.on('error', reject)
    })
  assert.equal(await served(), first.pem.cert.trim())
  tls.replace({ 'tls.crt': second.pem.cert, 'tls.key': second.pem.key })
  await until(async () => (await served()) === second.pem.cert.trim())
  await assertStops(proxy)
})

test('the container commands of the README work as written, with podman in place of docker', async t => {
  if (!requireOrSkip(t, 'unshare', 'curl') || (await builtImage(t)) === undefined) return
  const folder = folderFor(t)
  const [build, ...lines] = documentedLines()
  assert.match(build ?? '', /^podman build /)
  const main = join(repositoryRoot, 'dist/cli/main.js')
  const remove = () => podmanOrFail('rm', '--force', '--time', '0', '--ignore', 'focus-breaker')
  await remove()
  t.after(remove)
  const outcome = await runInNetworkOfItsOwn(
    [
      `'${process.execPath}' '${main}' simulate --host 0.0.0.0 --port 5000 >'${folder}/simulator' 2>&1 &`,
      'simulator=$!',
      "trap 'kill $simulator' EXIT",
      ...lines.flatMap(line => [`echo '$ ${line.replaceAll("'", "'\\''")}'`, line]),
    ].join('\n'),
  )
  t.diagnostic(outcome.stdout)
  assert.equal(outcome.status, 0, outcome.stdout + outcome.stderr)
})
