import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { at, repositoryRoot, startProgram, until } from '../support/harness.js'
import { ask } from '../support/http-client.js'
import {
  cleanSources,
  installedProgram,
  npm,
  packageVersion,
  packedProgram,
} from '../support/packed-program.js'
import { portOf } from '../support/raw.js'
import { simulate } from '../support/simulate.js'

/** The packages that the program needs, by their paths in package-lock.json. */
const locked = new Map(
  Object.entries(Object(at(readJson(join(repositoryRoot, 'package-lock.json')), 'packages'))).flatMap(
    ([path, entry]) =>
      path === '' || at(entry, 'dev') === true || at(entry, 'devOptional') === true
        ? []
        : [[path, String(at(entry, 'version'))] as const],
  ),
)

test('npm pack fails in a clone without installed dependencies, and reports what to do', t => {
  const { code, stderr } = npm(cleanSources(t), ['pack'])
  assert.notEqual(code, 0)
  assert.match(stderr, /cannot pack: the dependencies are not installed\. Run "npm ci" first\./)
})

test('npm pack fails if the installed dependencies differ from the tested ones', t => {
  const sources = cleanSources(t)
  const install = (path: string, version: string) => {
    mkdirSync(join(sources, path), { recursive: true })
    writeFileSync(join(sources, path, 'package.json'), JSON.stringify({ version }))
  }
  install('node_modules/typescript', '7.0.0')
  mkdirSync(join(sources, 'node_modules/typescript/bin'))
  writeFileSync(join(sources, 'node_modules/typescript/bin/tsc'), '')
  for (const [path, version] of locked) install(path, path === 'node_modules/fastify' ? '5.0.0' : version)
  install('node_modules/fastify/node_modules/@scope/inner', '1.0.0')
  rmSync(join(sources, 'node_modules/undici'), { recursive: true })
  const { status, stderr } = spawnSync(process.execPath, [join(sources, 'release/pack.js')], {
    encoding: 'utf8',
  })
  assert.equal(status, 1)
  const version = (name: string) => locked.get(`node_modules/${name}`)
  assert.deepEqual(
    stderr
      .replace('cannot pack: ', '')
      .replace(/\. Run .*\n$/, '')
      .split('; ')
      .sort(),
    [
      `node_modules/fastify is 5.0.0, package-lock.json says ${version('fastify')}`,
      `node_modules/undici is not installed, package-lock.json says ${version('undici')}`,
      'package-lock.json does not contain node_modules/fastify/node_modules/@scope/inner',
    ],
  )
})

test('the installed packages are restored after an interrupted npm pack, unless they were installed again', t => {
  for (const isInstalledAgain of [false, true]) {
    const sources = cleanSources(t)
    const compiler = (folder: string, content: string) => {
      mkdirSync(join(sources, folder, 'typescript/bin'), { recursive: true })
      writeFileSync(join(sources, folder, 'typescript/bin/tsc'), content)
    }
    mkdirSync(join(sources, 'node_modules/fastify'), { recursive: true })
    compiler('.packing/installed', 'before')
    if (isInstalledAgain) compiler('node_modules', 'again')
    const { status } = spawnSync(process.execPath, [join(sources, 'release/pack.js'), 'restore'])
    assert.equal(status, 0)
    assert.equal(
      readFileSync(join(sources, 'node_modules/typescript/bin/tsc'), 'utf8'),
      isInstalledAgain ? 'again' : 'before',
    )
    assert.equal(existsSync(join(sources, 'node_modules/fastify')), isInstalledAgain)
    assert.ok(!existsSync(join(sources, '.packing')))
  }
})

test('the package contains only what it needs to run', async () => {
  const { stdout } = spawnSync('tar', ['-tzf', await packedProgram()], { encoding: 'utf8' })
  const files = stdout
    .trim()
    .split('\n')
    .map(line => line.replace(/^package\//, ''))
  const own = files.filter(file => !file.startsWith('node_modules/'))
  const compiled = filesBelow('src').map(file => `dist/${file.replace(/\.ts$/, '.js')}`)
  const page = filesBelow('page')
    .filter(file => /\.(?:js|css|html)$/.test(file))
    .map(file => `page/${file}`)
  const others = [
    'CHANGELOG.md',
    'LICENSE',
    'README.md',
    'config/default.yaml',
    'config/schema.json',
    'package.json',
  ]
  assert.deepEqual(own.sort(), [...others, ...compiled, ...page].sort())

  // Each package has only the files that Node loads, and its license.
  const dependencies = files.filter(file => !own.includes(file))
  assert.deepEqual(
    dependencies.filter(file => !/\.(?:[cm]?js|json)$|\/(?:LICEN[CS]E|NOTICE|COPYING)[^/]*$/i.test(file)),
    [],
  )
  assert.deepEqual(
    dependencies.filter(file => /\/(?:\.[^/]*\/|tests?\/|docs\/|benchmarks?\/|examples?\/)/.test(file)),
    [],
  )
  const packageOf = (file: string) => /^.*node_modules\/(?:@[^/]+\/)?[^/]+/.exec(file)?.[0] ?? file
  const packages = new Set(dependencies.map(packageOf))
  assert.deepEqual([...packages].sort(), [...locked.keys()].sort())
})

test('installed in an empty folder, the program has the tested versions and no other packages', async t => {
  const folder = await installedProgram(t)
  assert.deepEqual(
    readdirSync(join(folder, 'node_modules')).filter(name => !name.startsWith('.')),
    ['focus-breaker'],
  )
  const program = join(folder, 'node_modules/focus-breaker')
  const installed = new Map(packagesBelow(program, 'node_modules'))
  assert.deepEqual(installed, new Map([...locked].sort()))
  // The newest version in its range needs Node 22.
  const cookies = [...installed].filter(([path]) => path.endsWith('/cookie')).map(([, version]) => version)
  assert.deepEqual(cookies, ['1.1.1'])

  // No package is missing, of a version that another package does not allow, or superfluous.
  const { code, stdout, stderr } = npm(folder, ['ls', '--all', '--json'])
  assert.equal(code, 0, stderr)
  assert.equal(at(JSON.parse(stdout), 'dependencies', 'focus-breaker', 'version'), packageVersion)
  assert.equal(at(JSON.parse(stdout), 'problems'), undefined)

  assert.equal(npm(folder, ['exec', '--', 'focus-breaker', '--version']).stdout, `${packageVersion}\n`)

  await t.test(
    'without ioredis, a configuration with replicas is a fault that names the package to install',
    () => {
      namesMissingClient(folder)
    },
  )

  await t.test('with OpenTelemetry installed, it sends traces', each => exportsTraces(each, folder))
})

test('installed globally, its command is on the PATH', async t => {
  const prefix = temporary(t, 'focus-breaker-global-')
  const { code, stderr } = npm(prefix, ['install', '--global', '--prefix', prefix, await packedProgram()])
  assert.equal(code, 0, stderr)
  const { stdout } = spawnSync(join(prefix, 'bin/focus-breaker'), ['--version'], { encoding: 'utf8' })
  assert.equal(stdout, `${packageVersion}\n`)
})

/** Starts and checks a configuration with replicas, without the optional package and with it. */
function namesMissingClient(folder: string): void {
  const run = (...args: readonly string[]) =>
    spawnSync(join(folder, 'node_modules/.bin/focus-breaker'), ['serve', ...args], {
      encoding: 'utf8',
      env: {
        PATH: process.env.PATH,
        FOCUS_BREAKER_UPSTREAM_URL: 'http://192.0.2.1:5000',
        FOCUS_BREAKER_REPLICAS_URL: 'redis://me:battery@192.0.2.7',
      },
    })
  const words =
    /FOCUS_BREAKER_REPLICAS_URL: replicas\.url: expected the package ioredis to be installed next to focus-breaker \(npm install ioredis@\d+\.\d+\.\d+\)/
  for (const args of [[], ['--check-config']]) {
    const { status, stderr } = run(...args)
    assert.equal(status, 2)
    assert.match(stderr, words)
    assert.doesNotMatch(stderr, /battery/)
  }
  const link = join(folder, 'node_modules/ioredis')
  symlinkSync(join(repositoryRoot, 'node_modules/ioredis'), link)
  const { status, stdout } = run('--check-config')
  rmSync(link)
  assert.equal(status, 0)
  assert.match(stdout, /url: redis:\/\/\*\*\*@192\.0\.2\.7 # FOCUS_BREAKER_REPLICAS_URL/)
}

/** Installs the optional packages in the folder of the program, as an operator would. */
async function exportsTraces(t: TestContext, folder: string): Promise<void> {
  for (const name of ['@fastify', '@opentelemetry']) {
    symlinkSync(join(repositoryRoot, 'node_modules', name), join(folder, 'node_modules', name))
  }
  const paths: string[] = []
  const collector = createServer((request, reply) => {
    paths.push(`${request.method} ${request.url}`)
    request.resume().once('end', () => reply.writeHead(200, { 'content-type': 'application/json' }).end('{}'))
  }).listen(0, '127.0.0.1')
  await once(collector, 'listening')
  t.after(() => {
    collector.close()
    collector.closeAllConnections()
  })
  const { simulator } = await simulate(t)
  const serve = ['serve', '--upstream', simulator.url, '--host', '127.0.0.1', '--port', '0']
  const proxy = await startProgram(t, {
    command: join(folder, 'node_modules/.bin/focus-breaker'),
    args: serve,
    env: {
      PATH: process.env.PATH,
      OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${portOf(collector)}`,
      OTEL_EXPORTER_OTLP_PROTOCOL: 'http/json',
      OTEL_BSP_SCHEDULE_DELAY: '100',
    },
    readyWhen: line => /"url":"(http[^"]+)".*"msg":"listening"/.exec(line)?.[1],
  })
  assert.equal((await ask(`${proxy.ready}/channels`)).statusCode, 200)
  await until(() => paths.includes('POST /v1/traces'), { what: 'a trace is sent', timeoutMs: 30_000 })
  assert.equal(await proxy.stop(), 0)
}

/** All packages in a `node_modules` folder and below it, by their paths, with their versions. */
function packagesBelow(root: string, folder: string): readonly (readonly [string, string])[] {
  if (!existsSync(join(root, folder))) return []
  const names = readdirSync(join(root, folder)).filter(name => !name.startsWith('.'))
  return names
    .flatMap(name =>
      name.startsWith('@') ? readdirSync(join(root, folder, name)).map(own => `${name}/${own}`) : name,
    )
    .map(name => `${folder}/${name}`)
    .flatMap(path => [
      [path, String(at(readJson(join(root, path, 'package.json')), 'version'))] as const,
      ...packagesBelow(root, `${path}/node_modules`),
    ])
    .sort()
}

function filesBelow(folder: string): readonly string[] {
  return readdirSync(join(repositoryRoot, folder), { recursive: true, withFileTypes: true })
    .filter(entry => entry.isFile())
    .map(entry => join(entry.parentPath, entry.name).slice(join(repositoryRoot, folder).length + 1))
}

function temporary(t: TestContext, prefix: string): string {
  const folder = mkdtempSync(join(tmpdir(), prefix))
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

function readJson(file: string): unknown {
  return JSON.parse(readFileSync(file, 'utf8'))
}
