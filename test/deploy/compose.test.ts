import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import {
  chownSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { type TestContext, test } from 'node:test'
import { promisify } from 'node:util'
import { parse } from 'yaml'
import {
  at,
  freePort,
  kernelAllowsOrSkip,
  repositoryRoot,
  requireOrSkip,
  testTools,
  until,
} from '../support/harness.js'
import { ask, configure } from '../support/http-client.js'
import { builtImage, podman, podmanOrFail, runLines } from '../support/image.js'
import { Page } from '../support/recipe-page.js'

const run = promisify(execFile)
const FOLDER = join(repositoryRoot, 'deploy/compose')
const FILE = join(FOLDER, 'compose.yaml')
/** A container starts in about a second on an otherwise idle machine. */
const PATIENCE_MS = 60_000
const compose = parsed('compose.yaml')
const services = Object.entries(membersOf(at(compose, 'services')))
const { version } = JSON.parse(readFileSync(join(repositoryRoot, 'package.json'), 'utf8'))

test('the file is valid by the schema of the Compose Specification, and a misspelt key is not', async t => {
  if (!requireOrSkip(t, 'dclint')) return
  const lint = (file: string) => run(process.execPath, [testTools.dclint, '--quiet', file])
  await lint(FILE)
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-compose-'))
  t.after(() => rmSync(directory, { recursive: true }))
  const misspelt = join(directory, 'compose.yaml')
  writeFileSync(misspelt, readFileSync(FILE, 'utf8').replace('mem_limit: 512m', 'memlimit: 512m'))
  await assert.rejects(lint(misspelt))
})

test('every service is published on this machine only, has a memory limit, and has only the privileges it needs', () => {
  assert.deepEqual(services.map(([name]) => name).toSorted(), [
    'focus-breaker',
    'grafana',
    'prometheus',
    'simulator',
  ])
  for (const [name, service] of services) {
    assert.equal(at(service, 'read_only'), true, name)
    assert.deepEqual(at(service, 'cap_drop'), ['ALL'], name)
    assert.deepEqual(at(service, 'security_opt'), ['no-new-privileges:true'], name)
    assert.match(String(at(service, 'mem_limit')), /^\d+m$/, name)
    assert.equal(at(service, 'restart'), 'unless-stopped', name)
    assert.equal(at(service, 'privileged'), undefined, name)
    for (const port of listOf(at(service, 'ports') ?? [])) {
      assert.match(String(port), /^127\.0\.0\.1:\$\{[A-Z]+_PORT:-(\d+)\}:\1$/, name)
    }
    // A name, and a version that always means the same image.
    assert.match(String(at(service, 'image')), /^[\w./-]+:v?\d+\.\d+\.\d+$/, name)
  }
})

test('the second file adds a replica that differs from the first one in its name, its port and its history only', async t => {
  const file = 'replicas.yaml'
  const added = parsed(file)
  const second = membersOf(at(added, 'services', 'focus-breaker-2'))
  const [first, valkey] = [at(compose, 'services', 'focus-breaker'), at(added, 'services', 'valkey')]
  const { environment, ports, volumes, pull_policy, depends_on: _, ...same } = second
  const { build: _build, ports: _ports, volumes: mounts, depends_on: _depends, ...rest } = membersOf(first)
  assert.deepEqual(same, rest)
  assert.equal(pull_policy, 'never')
  assert.match(String(listOf(ports)[0]), /^127\.0\.0\.1:\$\{PROXY_2_PORT:-8081\}:8080$/)
  assert.deepEqual(
    listOf(volumes),
    listOf(mounts).map(mount => String(mount).replace(/^history:/, 'history-2:')),
  )
  // They share all settings of the replicas except their names.
  const named = membersOf(at(added, 'services', 'focus-breaker', 'environment'))
  const name = 'FOCUS_BREAKER_REPLICAS_NAME'
  assert.notEqual(named[name], membersOf(environment)[name])
  assert.deepEqual({ ...named, [name]: '' }, { ...membersOf(environment), [name]: '' })
  const url = new URL(String(named.FOCUS_BREAKER_REPLICAS_URL).replace(/\$\{VALKEY_PASSWORD:[^}]*\}/, 'x'))
  assert.deepEqual(
    [url.protocol, url.hostname, url.port, url.username],
    ['redis:', 'valkey', '6379', 'focus-breaker'],
  )

  // Reachable in the network of the project only, and with only the privileges it needs.
  assert.equal(at(valkey, 'ports'), undefined)
  assert.equal(at(valkey, 'read_only'), true)
  assert.deepEqual(at(valkey, 'cap_drop'), ['ALL'])
  assert.deepEqual(at(valkey, 'security_opt'), ['no-new-privileges:true'])
  assert.match(String(at(valkey, 'mem_limit')), /^\d+m$/)
  assert.match(String(at(valkey, 'image')), /^[\w./-]+:\d+\.\d+\.\d+$/)

  // Prometheus scrapes both in one job.
  const mount = listOf(at(added, 'services', 'prometheus', 'volumes')).map(String)
  assert.deepEqual(mount, ['./prometheus-replicas.yml:/etc/prometheus/prometheus.yml:ro'])
  const text = (prometheus: string) => readFileSync(join(FOLDER, prometheus), 'utf8')
  assert.deepEqual(
    parse(text('prometheus-replicas.yml').replace(', "focus-breaker-2:8080"', '')),
    parse(text('prometheus.yml')),
  )
  assert.deepEqual(
    at(parse(text('prometheus-replicas.yml')), 'scrape_configs', 0, 'static_configs', 0, 'targets'),
    ['focus-breaker:8080', 'focus-breaker-2:8080'],
  )
  if (!requireOrSkip(t, 'dclint')) return
  await run(process.execPath, [testTools.dclint, '--quiet', join(FOLDER, file)])
})

test('every service that another waits for has a health check that needs no shell', () => {
  const needed = new Set(services.flatMap(([, service]) => Object.keys(membersOf(at(service, 'depends_on')))))
  assert.deepEqual([...needed].toSorted(), ['focus-breaker', 'prometheus', 'simulator'])
  for (const name of needed) {
    assert.equal(at(compose, 'services', name, 'healthcheck', 'test', 0), 'CMD', name)
  }
  for (const [name, service] of services) {
    for (const condition of Object.values(membersOf(at(service, 'depends_on')))) {
      assert.deepEqual(condition, { condition: 'service_healthy' }, name)
    }
  }
})

test('our services have the image of this version, from the Dockerfile, and time to drain', () => {
  for (const name of ['simulator', 'focus-breaker']) {
    const service = at(compose, 'services', name)
    assert.equal(at(service, 'image'), `focus-breaker:${version}`)
  }
  // Two parallel builds of one image fail in an engine with containerd's image store. Compose recognises that the other
  // service builds the image that this one must not pull.
  const built = services.filter(([, service]) => at(service, 'build') !== undefined)
  assert.deepEqual(
    built.map(([name]) => name),
    ['focus-breaker'],
  )
  assert.ok(existsSync(join(FOLDER, String(at(compose, 'services', 'focus-breaker', 'build')), 'Dockerfile')))
  assert.equal(at(compose, 'services', 'simulator', 'pull_policy'), 'never')
  const grace = /^(\d+)s$/.exec(String(at(compose, 'services', 'focus-breaker', 'stop_grace_period')))?.[1]
  const server = at(parse(readFileSync(join(repositoryRoot, 'config/default.yaml'), 'utf8')), 'server')
  const drainMs = Number(at(server, 'drainDelayMs')) + Number(at(server, 'drainTimeoutMs'))
  assert.ok(Number(grace) * 1000 >= drainMs + 5000)
})

test('each mount is an existing file or folder, read-only, or a declared volume', () => {
  const declared = Object.keys(membersOf(at(compose, 'volumes'))).toSorted()
  const mounts = services.flatMap(([name]) => mountsOf(name))
  for (const { source, mode } of mounts) {
    if (!source.startsWith('.')) continue
    assert.ok(existsSync(join(FOLDER, source)), source)
    assert.equal(mode, 'ro', source)
  }
  assert.deepEqual(
    mounts.flatMap(({ source }) => (source.startsWith('.') ? [] : [source])).toSorted(),
    declared,
  )
})

test('Grafana finds its data source and the dashboard where its provisioning says', () => {
  const mounts = mountsOf('grafana')
  const provisioned = (folder: string) => {
    const mount = mounts.find(({ target }) => dirname(target) === `/etc/grafana/provisioning/${folder}`)
    assert.ok(mount !== undefined, folder)
    const value: unknown = parsed(mount.source)
    assert.equal(at(value, 'apiVersion'), 1)
    return value
  }
  const sources = listOf(at(provisioned('datasources'), 'datasources'))
  const [source] = sources
  assert.equal(sources.length, 1)
  const url = new URL(String(at(source, 'url')))
  assert.equal(url.hostname, 'prometheus')
  assert.equal(url.port, portOf('prometheus'))
  assert.equal(
    at(source, 'jsonData', 'timeInterval'),
    at(parsed('prometheus.yml'), 'global', 'scrape_interval'),
  )

  const provider = at(provisioned('dashboards'), 'providers', 0)
  const [mount, ...others] = mounts.filter(
    ({ target }) => dirname(target) === at(provider, 'options', 'path'),
  )
  assert.ok(mount !== undefined)
  assert.deepEqual(others, [])
  const home = at(compose, 'services', 'grafana', 'environment', 'GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH')
  assert.equal(home, mount.target)
  const dashboard: unknown = JSON.parse(readFileSync(join(FOLDER, mount.source), 'utf8'))
  // The variable offers every source of this type, with the default one first.
  const variable = listOf(at(dashboard, 'templating', 'list')).find(each => at(each, 'name') === 'datasource')
  assert.equal(at(variable, 'query'), at(source, 'type'))
  assert.equal(at(source, 'isDefault'), true)
  for (const uid of dataSourcesOf(dashboard)) {
    assert.ok(uid === `\${datasource}` || uid === at(source, 'uid'), String(uid))
  }
})

test('Prometheus can read its configuration, which scrapes the proxy under a name that the alerts know', async t => {
  if (!requireOrSkip(t, 'promtool')) return
  const mounts = mountsOf('prometheus')
  const [configuration, rules] = ['prometheus.yml', 'alerts.yml'].map(name =>
    mounts.find(({ target }) => target === `/etc/prometheus/${name}`),
  )
  assert.ok(configuration !== undefined && rules !== undefined)
  assert.ok(
    listOf(at(compose, 'services', 'prometheus', 'command')).includes(
      `--config.file=${configuration.target}`,
    ),
  )
  const text = readFileSync(join(FOLDER, configuration.source), 'utf8')
  assert.ok(text.includes(rules.target))
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-compose-'))
  t.after(() => rmSync(directory, { recursive: true }))
  const file = join(directory, 'prometheus.yml')
  writeFileSync(file, text.replace(rules.target, resolve(FOLDER, rules.source)))
  await run('promtool', ['check', 'config', file])
  const job = at(parse(text), 'scrape_configs', 0)
  assert.equal(at(job, 'job_name'), 'focus-breaker')
  assert.deepEqual(at(job, 'static_configs', 0, 'targets'), [`focus-breaker:${portOf('focus-breaker')}`])
})

test('the simulator, the proxy and Prometheus run from the file, and the commands on the page do what the page says', async t => {
  if (!requireOrSkip(t, 'podman-compose', 'dnsname', 'openssl', 'prometheus')) return
  if (!kernelAllowsOrSkip(t, 'a bridged network')) return
  const image = await builtImage(t)
  if (image === undefined) return
  const page = new Page('compose.md')
  const [up, token] = [page.take('bash'), page.take('bash')]
  page.assertAllTaken()
  await podmanOrFail('tag', image, `focus-breaker:${version}`)
  // Docker gives a new volume to the owner of the folder that it covers; podman gives it to the user of the container.
  const owner = 'console.log(fs.statSync("/var/lib/focus-breaker").uid)'
  const node = ['--no-healthcheck', '--entrypoint', '/usr/local/bin/node']
  assert.equal((await podmanOrFail('run', '--rm', ...node, image, '--eval', owner)).stdout, '1000\n')
  await importPrometheus(t)
  const { folder, project, lines } = await workplace(t)
  const [proxyPort, prometheusPort] = [await freePort(), await freePort()]
  const url = `http://127.0.0.1:${proxyPort}`
  const settings = `export PROXY_PORT=${proxyPort} PROMETHEUS_PORT=${prometheusPort}\n`

  const [first, second, ...others] = up.trimEnd().split('\n')
  assert.deepEqual([first, second, others], ['cd deploy/compose', 'docker compose up --build --detach', []])
  // The image has already been built from the Dockerfile. Grafana is not installed here.
  await lines(
    `${settings}podman-compose -p ${project} up --no-build --detach simulator focus-breaker prometheus`,
  )
  await until(async () => (await ask(`${url}/-/fiber`)).statusCode === 200, {
    what: 'the proxy admits',
    timeoutMs: PATIENCE_MS,
  })
  assert.equal((await configure({ url })).statusCode, 200)

  for (const name of ['simulator', 'focus-breaker', 'prometheus']) {
    const { stdout } = await podmanOrFail('container', 'inspect', containerOf(project, name))
    const container: unknown = at(JSON.parse(stdout), 0)
    assert.equal(at(container, 'HostConfig', 'ReadonlyRootfs'), true, name)
    assert.deepEqual(at(container, 'EffectiveCaps') ?? [], [], name)
    assert.notEqual(at(container, 'HostConfig', 'Memory'), 0, name)
    // As Compose runs it. Debian's promtool does not have the command yet.
    const [, ...check] = listOf(at(compose, 'services', name, 'healthcheck', 'test')).map(String)
    if (name === 'prometheus') continue
    const checked = await podman('exec', containerOf(project, name), ...check)
    assert.equal(checked.status, 0, checked.stderr)
  }

  const prometheus = `http://127.0.0.1:${prometheusPort}/api/v1`
  await until(
    async () => {
      const { json } = await ask(`${prometheus}/targets`)
      return at(json, 'data', 'activeTargets', 0, 'health') === 'up'
    },
    { what: 'Prometheus scrapes the proxy', timeoutMs: PATIENCE_MS },
  )
  const groups = listOf(at((await ask(`${prometheus}/rules`)).json, 'data', 'groups'))
  assert.deepEqual(
    groups.map(group => at(group, 'name')),
    ['focus-breaker'],
  )

  const [secret, option, reload, ...rest] = token.trimEnd().split('\n')
  assert.deepEqual([reload, rest], ['docker compose kill --signal SIGHUP focus-breaker', []])
  await lines(`${secret}\n${option}\npodman kill --signal SIGHUP ${containerOf(project, 'focus-breaker')}`)
  const authorization = `Bearer ${readFileSync(join(folder, 'config/admin-token'), 'utf8').trim()}`
  await until(
    async () =>
      (await ask(`${url}/-/reload`, { method: 'POST', headers: { authorization } })).statusCode === 200,
    { what: 'the admin token is in force', timeoutMs: PATIENCE_MS },
  )

  const forwarded = async () => Number(at((await ask(`${url}/-/status`)).json, 'totals', 'forwarded'))
  const before = await forwarded()
  assert.ok(before > 0)
  await lines(`podman-compose -p ${project} restart focus-breaker`)
  await until(async () => (await forwarded()) >= before, {
    what: 'the counts from the volume are back',
    timeoutMs: PATIENCE_MS,
  })
  await lines(`podman-compose -p ${project} stop focus-breaker`)
  const { stdout } = await podmanOrFail('container', 'inspect', containerOf(project, 'focus-breaker'))
  assert.equal(at(JSON.parse(stdout), 0, 'State', 'ExitCode'), 0)
})

/** A copy of `deploy` whose containers, volumes and network are removed after the test. */
async function workplace(t: TestContext) {
  const root = mkdtempSync(join(tmpdir(), 'focus-breaker-compose-'))
  cpSync(join(repositoryRoot, 'deploy'), join(root, 'deploy'), { recursive: true })
  const folder = join(root, 'deploy/compose')
  const project = `test-${randomUUID().slice(0, 8)}`
  const lines = async (text: string) => {
    const { status, stdout, stderr } = await runLines(text, folder)
    assert.equal(status, 0, `${text}\n${stdout}\n${stderr}`)
  }
  t.after(async () => {
    await runLines(`podman-compose -p ${project} down --volumes`, folder)
    await podman('network', 'rm', '--force', `${project}_default`)
    rmSync(root, { recursive: true, force: true })
  })
  return { folder, project, lines }
}

/** Debian's Prometheus under the name of the official image, for which there is no registry here. */
async function importPrometheus(t: TestContext): Promise<void> {
  const name = String(at(compose, 'services', 'prometheus', 'image'))
  const base = mkdtempSync(join(tmpdir(), 'focus-breaker-prometheus-image-'))
  t.after(() => rmSync(base, { recursive: true, force: true }))
  const { stdout } = await run('ldd', ['/usr/bin/prometheus'])
  const libraries = [...stdout.matchAll(/^\s+(?:\S+ => )?(\/\S+) \(/gm)].map(([, library = '']) => library)
  for (const [from, to] of [
    ['/usr/bin/prometheus', '/bin/prometheus'],
    ...libraries.map(each => [each, each]),
  ]) {
    if (from === undefined || to === undefined) continue
    mkdirSync(dirname(join(base, to)), { recursive: true })
    cpSync(realpathSync(from), join(base, to))
  }
  mkdirSync(join(base, 'prometheus'))
  // As in the official image: a new volume takes the owner of the folder that it covers.
  chownSync(join(base, 'prometheus'), 65534, 65534)
  const archive = `${base}.tar`
  t.after(() => rmSync(archive, { force: true }))
  await run('tar', ['--create', '--file', archive, '--directory', base, '.'])
  const changes = ['ENTRYPOINT ["/bin/prometheus"]', 'USER 65534', 'WORKDIR /prometheus']
  await podmanOrFail('import', '--quiet', ...changes.flatMap(change => ['--change', change]), archive, name)
}

/** The name that podman-compose gives a container. */
function containerOf(project: string, service: string): string {
  return `${project}_${service}_1`
}

/** The mounts of a service. */
function mountsOf(service: string) {
  return listOf(at(compose, 'services', service, 'volumes') ?? []).map(mount => {
    const [source = '', target = '', mode] = String(mount).split(':')
    return { source, target, mode }
  })
}

/** The port on which a service listens in its container. */
function portOf(service: string): string | undefined {
  return String(at(compose, 'services', service, 'ports', 0))
    .split(':')
    .at(-1)
}

/** The uid of every data source that a dashboard names, at any depth. */
function dataSourcesOf(value: unknown): readonly unknown[] {
  if (typeof value !== 'object' || value === null) return []
  return Object.entries(value).flatMap(([key, inner]) =>
    key === 'datasource' ? [at(inner, 'uid')] : dataSourcesOf(inner),
  )
}

/** A file of the folder, with merge keys. */
function parsed(name: string): unknown {
  return parse(readFileSync(join(FOLDER, name), 'utf8'), { merge: true })
}

function membersOf(value: unknown): Readonly<Record<string, unknown>> {
  return { ...Object(value ?? {}) }
}

function listOf(value: unknown): readonly unknown[] {
  assert.ok(Array.isArray(value), `not a list: ${JSON.stringify(value)}`)
  return value
}
