import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { createHash, randomUUID } from 'node:crypto'
import {
  chmodSync,
  closeSync,
  cpSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, relative } from 'node:path'
import type { TestContext } from 'node:test'
import { at, repositoryRoot, requireOrSkip, testTools, until } from './harness.js'

/**
 * The image of the `Dockerfile`, built and run by podman.
 *
 * No image registry is needed: two small base images are made from this machine's files and tagged with the names that
 * the Dockerfile uses. Everything is kept in a separate storage, so that the machine's own images and containers are
 * not touched. The image is built once for all test files, and again if a file that goes into it has changed.
 * `removeImages` removes the storage; `test/run.ts` calls it at the end.
 */

/** One storage for each checkout. */
const storage = join(
  tmpdir(),
  `focus-breaker-images-${createHash('sha256').update(repositoryRoot).digest('hex').slice(0, 12)}`,
)

/** The settings of podman, with the host network, and with a network between containers. */
const CONFIGURED = 'containers.conf'
const BRIDGED = 'bridged.conf'

/** The host as its containers see it, in podman's own network. */
const GATEWAY = '10.88.0.1'

const BUILD_TIMEOUT_MS = 240_000

/**
 * The settings that podman reads instead of the machine's own, so that the lines of the README need no further flags.
 */
const environment: Readonly<Record<string, string | undefined>> = {
  ...process.env,
  CONTAINERS_CONF: join(storage, CONFIGURED),
  CONTAINERS_STORAGE_CONF: join(storage, 'storage.conf'),
  BUILDAH_ISOLATION: 'chroot',
  // Only this format supports HEALTHCHECK.
  BUILDAH_FORMAT: 'docker',
  BUILDAH_RUNTIME: 'runc',
}

/** What a program printed, and how it ended. */
export interface Outcome {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

/** A running container, removed after the test. */
export interface Container {
  readonly name: string
  /** The id of its first process, as the host sees it. */
  readonly pid: number
  /** Everything it has printed so far. */
  output(): Promise<string>
  /** Runs a program in it. */
  exec(...command: readonly string[]): Promise<Outcome>
  /** Sends a signal to its first process. */
  signal(name: 'SIGTERM' | 'SIGHUP' | 'SIGKILL'): Promise<void>
  /** Waits for its end and returns the exit code. */
  ended(): Promise<number>
  /** The output of `podman inspect` for it. */
  inspect(): Promise<unknown>
}

/**
 * The name of the image, which is built if it does not exist yet. Undefined if the test is skipped because a required
 * program is missing.
 */
export async function builtImage(t: TestContext): Promise<string | undefined> {
  if (!requireOrSkip(t, 'podman', 'runc', 'root', 'node24')) return undefined
  const [build = ''] = documentedLines()
  const name = build.split(' ').at(-2) ?? ''
  const built = `focus-breaker:test-${contextHash()}`
  await withLock(async () => {
    writeSettings()
    if ((await podman('image', 'exists', built)).status !== 0) {
      await importBases()
      const { status, stdout, stderr } = await run('/bin/sh', ['-c', build])
      assert.equal(status, 0, `${build} failed:\n${stdout}\n${stderr}`)
      await podmanOrFail('tag', name, built)
    }
    // It may have been built from another state of the files in the meantime.
    await podmanOrFail('tag', built, name)
  })
  return name
}

/** The container commands of the README, with podman in place of docker. The first one builds the image. */
export function documentedLines(): readonly string[] {
  const readme = readFileSync(join(repositoryRoot, 'README.md'), 'utf8')
  const block = /^### In a container\n(?:(?!^##).*\n)*?```\n([^`]+)```/m.exec(readme)?.[1]
  assert.ok(block !== undefined, 'the README has no container commands')
  const lines = block.trim().split('\n')
  assert.match(lines[0] ?? '', /^docker build -t \S+ \.$/)
  return lines.map(line => line.replace(/^docker /, 'podman '))
}

/**
 * Runs a container in the host network, and removes it after the test.
 *
 * `flags` are options of `podman run`, `command` follows the image. The healthcheck of the image is off, because podman
 * runs it with systemd.
 */
export async function runContainer(
  t: TestContext,
  image: string,
  options: { readonly flags?: readonly string[]; readonly command?: readonly string[] } = {},
): Promise<Container> {
  const name = `test-${randomUUID()}`
  t.after(() => podman('rm', '--force', '--time', '0', '--ignore', name))
  const flags = ['--detach', '--name', name, '--no-healthcheck', ...(options.flags ?? [])]
  const started = await podman('run', ...flags, image, ...(options.command ?? []))
  assert.equal(started.status, 0, `the container did not start: ${started.stderr}`)
  const inspect = async () => {
    const { stdout } = await podmanOrFail('container', 'inspect', name)
    const inspected: unknown = JSON.parse(stdout)
    return at(inspected, 0)
  }
  const pid = at(await inspect(), 'State', 'Pid')
  assert.ok(typeof pid === 'number')
  return {
    name,
    pid,
    inspect,
    output: async () => {
      const { stdout, stderr } = await podmanOrFail('logs', name)
      return stdout + stderr
    },
    exec: (...command) => podman('exec', name, ...command),
    signal: async signal => {
      await podmanOrFail('kill', '--signal', signal, name)
    },
    ended: async () => Number((await podmanOrFail('wait', name)).stdout),
  }
}

/** Runs podman with the storage of the tests. */
export function podman(...args: readonly string[]): Promise<Outcome> {
  return run('podman', args)
}

/** As `podman`, but a failure fails the test. */
export async function podmanOrFail(...args: readonly string[]): Promise<Outcome> {
  const outcome = await podman(...args)
  assert.equal(outcome.status, 0, `podman ${args.join(' ')}: ${outcome.stderr}`)
  return outcome
}

/** Runs shell lines in a folder, with podman as in `builtImage`, and stops at the first failure. */
export function runLines(lines: string, folder: string): Promise<Outcome> {
  return run('/bin/sh', ['-ec', lines], {}, folder)
}

/**
 * Runs shell lines with podman as in `builtImage` until one fails, in a network that is removed afterwards. So ports
 * are free, and podman publishes them as for a user. `focus-server` is the name of the host in its containers.
 */
export function runInNetworkOfItsOwn(lines: string): Promise<Outcome> {
  return run('unshare', ['--net', '/bin/sh', '-ec', `ip link set lo up\n${lines}`], {
    CONTAINERS_CONF: join(storage, BRIDGED),
  })
}

/** Removes the built images and their storage. */
export async function removeImages(): Promise<void> {
  if (!existsSync(storage)) return
  const { stdout: containers } = await podman('ps', '--all', '--quiet')
  if (containers !== '') await podman('rm', '--all', '--force', '--time', '0')
  // The storage driver mounts its folder on itself; an aborted test may have left an image mounted in it.
  const mounted = readFileSync('/proc/self/mounts', 'utf8').matchAll(/^\S+ (\S+) /gm)
  for (const folder of [...mounted].map(([, path = '']) => path).reverse()) {
    if (folder.startsWith(`${storage}/`)) await run('umount', [folder])
  }
  rmSync(storage, { recursive: true, force: true })
}

/** The base images that the Dockerfile names, made of the Node of `test/tools`, npm, a shell, and their libraries. */
async function importBases(): Promise<void> {
  const dockerfile = readFileSync(join(repositoryRoot, 'Dockerfile'), 'utf8')
  const nameOf = (argument: string) => {
    const name = new RegExp(`^ARG ${argument}=(\\S+)$`, 'm').exec(dockerfile)?.[1]
    assert.ok(name !== undefined, `the Dockerfile has no default for ${argument}`)
    return name
  }
  const programs: readonly (readonly [string, string])[] = [
    [testTools.node24, 'usr/local/bin/node'],
    ['/bin/sh', 'bin/sh'],
    // Only for the shebang line of npm.
    ['/usr/bin/env', 'usr/bin/env'],
  ]
  const { stdout: linked } = await runOrFail('ldd', ...programs.map(([program]) => program))
  const libraries = new Set(
    [...linked.matchAll(/^\s+(?:\S+ => )?(\/\S+) \(/gm)].map(([, library = '']) => library),
  )
  const runBase = join(storage, 'run-base')
  const buildBase = join(storage, 'build-base')
  for (const base of [runBase, buildBase]) {
    rmSync(base, { recursive: true, force: true })
    mkdirSync(join(base, 'tmp'), { recursive: true })
    chmodSync(join(base, 'tmp'), 0o1777)
    for (const library of libraries) copy(library, join(base, library))
  }
  for (const [program, path] of programs) copy(program, join(buildBase, path))
  copy(join(dirname(testTools.node24), '../LICENSE'), join(buildBase, 'usr/local/LICENSE'))

  const npm = realpathSync((await runOrFail('npm', 'root', '--global')).stdout.trim())
  copy(join(npm, 'npm'), join(buildBase, 'usr/local/lib/node_modules/npm'))
  symlinkSync('../lib/node_modules/npm/bin/npm-cli.js', join(buildBase, 'usr/local/bin/npm'))
  // How this machine reaches its package registry.
  const settings = await Promise.all(
    ['registry', 'cafile', 'proxy', 'https-proxy', 'noproxy'].map(async key => {
      const value = (await runOrFail('npm', 'config', 'get', key)).stdout.trim()
      return { key, value: value === 'null' ? '' : value }
    }),
  )
  const certificates = settings.find(({ key }) => key === 'cafile')?.value ?? ''
  if (certificates !== '') copy(certificates, join(buildBase, certificates))
  const variables = [
    ['PATH', '/usr/local/bin:/usr/bin:/bin'],
    ...settings
      .filter(({ value }) => value !== '')
      .map(({ key, value }) => [`NPM_CONFIG_${key.replaceAll('-', '_').toUpperCase()}`, value]),
  ]
  await importBase(buildBase, nameOf('BUILD_IMAGE'), variables)
  await importBase(runBase, nameOf('RUN_IMAGE'), [])
}

async function importBase(
  folder: string,
  name: string,
  variables: readonly (readonly string[])[],
): Promise<void> {
  const archive = `${folder}.tar`
  await runOrFail('tar', '--create', '--owner=0', '--group=0', '--file', archive, '--directory', folder, '.')
  const changes = variables.flatMap(([key, value]) => ['--change', `ENV ${key}=${value}`])
  await podmanOrFail('import', '--quiet', ...changes, archive, name)
  rmSync(archive)
  rmSync(folder, { recursive: true })
}

function copy(from: string, to: string): void {
  mkdirSync(dirname(to), { recursive: true })
  cpSync(realpathSync(from), to, { recursive: true, verbatimSymlinks: true })
}

function writeSettings(): void {
  mkdirSync(storage, { recursive: true })
  writeFileSync(
    join(storage, 'storage.conf'),
    [
      '[storage]',
      'driver = "overlay"',
      `graphroot = "${join(storage, 'root')}"`,
      `runroot = "${join(storage, 'run')}"`,
      '',
    ].join('\n'),
  )
  writeFileSync(join(storage, 'hosts'), `127.0.0.1 localhost\n${GATEWAY} focus-server\n`)
  const network = {
    [CONFIGURED]: 'netns = "host"',
    [BRIDGED]: `base_hosts_file = "${join(storage, 'hosts')}"`,
  }
  for (const [name, line] of Object.entries(network)) writeContainersConf(name, line)
}

function writeContainersConf(name: string, network: string): void {
  // The limits are below those of this container, if the tests themselves run in one.
  writeFileSync(
    join(storage, name),
    [
      '[containers]',
      network,
      'default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]',
      'log_driver = "k8s-file"',
      '[engine]',
      'runtime = "runc"',
      'cgroup_manager = "cgroupfs"',
      'events_logger = "none"',
      '',
    ].join('\n'),
  )
}

/** A hash of everything that the build reads. */
function contextHash(): string {
  const hash = createHash('sha256')
  const ignored = readFileSync(join(repositoryRoot, '.dockerignore'), 'utf8')
  const names = [
    'Dockerfile',
    '.dockerignore',
    ...[...ignored.matchAll(/^!(.+)$/gm)].map(([, name = '']) => name),
  ]
  // If a folder is listed along with a part of it (`deploy`, then `deploy/image`), it is only the path to that part.
  const leaves = names.filter(name => !names.some(other => other.startsWith(`${name}/`)))
  const add = (path: string) => {
    if (statSync(path).isDirectory()) {
      for (const name of readdirSync(path).sort()) add(join(path, name))
      return
    }
    hash
      .update(`${relative(repositoryRoot, path)}\0`)
      .update(readFileSync(path))
      .update('\0')
  }
  for (const name of leaves.sort()) add(join(repositoryRoot, name))
  hash.update(testTools.node24).update(process.version)
  return hash.digest('hex').slice(0, 16)
}

/** Only one test file builds at a time. A lock of a process that has ended does not count. */
async function withLock(work: () => Promise<void>): Promise<void> {
  mkdirSync(storage, { recursive: true })
  const file = join(storage, 'lock')
  await until(
    () => {
      try {
        const lock = openSync(file, 'wx')
        writeFileSync(lock, String(process.pid))
        closeSync(lock)
        return true
      } catch {
        if (!isAlive(Number(readFileSync(file, 'utf8')))) rmSync(file, { force: true })
        return false
      }
    },
    { what: 'no other test builds the image', timeoutMs: BUILD_TIMEOUT_MS, everyMs: 200 },
  )
  try {
    await work()
  } finally {
    rmSync(file, { force: true })
  }
}

/** Process 0 is used for a lock whose owner has not written its id yet. */
function isAlive(pid: number): boolean {
  return pid === 0 || existsSync(`/proc/${pid}`)
}

async function runOrFail(command: string, ...args: readonly string[]): Promise<Outcome> {
  const outcome = await run(command, args)
  assert.equal(outcome.status, 0, `${command} ${args.join(' ')}: ${outcome.stderr}`)
  return outcome
}

function run(
  command: string,
  args: readonly string[],
  variables: Readonly<Record<string, string>> = {},
  folder: string = repositoryRoot,
): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd: folder,
      env: { ...environment, ...variables },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let stdout = ''
    let stderr = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text
    })
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text
    })
    child.on('error', reject)
    child.on('close', status => resolve({ status, stdout, stderr }))
  })
}
