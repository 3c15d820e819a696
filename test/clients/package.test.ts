import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, type TestContext, test } from 'node:test'
import { at, repositoryRoot } from '../support/harness.js'
import { PYTHON, requireOrSkip } from '../support/python.js'

const CLIENTS = join(repositoryRoot, 'clients/python')
const MYPY = '/usr/bin/mypy'
/** For a program that hangs. While other tests run, mypy takes minutes without its cache. */
const TIMEOUT_MS = 900_000

const debian = ['pytest', 'requests', 'pip', 'setuptools', 'wheel', 'httpx', 'aiohttp'] as const

test('the Python package has the version of the proxy', () => {
  const version = /^version = "(.+)"$/m.exec(readFileSync(join(CLIENTS, 'pyproject.toml'), 'utf8'))?.[1]
  assert.equal(version, proxyVersion())
})

describe('the wheel of the Python package', { concurrency: 2 }, () => {
  test('has the same bytes wherever it is built', t => {
    if (!requireOrSkip(t, ...debian)) return
    const folder = folderOf(t)
    const epoch = { SOURCE_DATE_EPOCH: '1700000000' }
    const builds = [
      build(join(folder, 'one'), { ...epoch, TZ: 'UTC', PYTHONHASHSEED: '1' }, '022'),
      build(
        join(folder, 'two/below'),
        { ...epoch, TZ: 'Asia/Tokyo', PYTHONHASHSEED: '2', LC_ALL: 'C' },
        '077',
      ),
      build(join(folder, 'three'), epoch, '022', leaveOldFiles),
    ]
    assert.equal(new Set(builds.map(({ hash }) => hash)).size, 1, JSON.stringify(builds))
    const other = build(join(folder, 'four'), { SOURCE_DATE_EPOCH: '1600000000' }, '022')
    assert.notEqual(other.hash, builds[0]?.hash, 'the time is not in the wheel')
  })

  test('is built from a clean clone with pip only, has the version of the proxy, and holds only what it needs at run time', t => {
    if (!requireOrSkip(t, ...debian)) return
    const folder = folderOf(t)
    const source = join(folder, 'source')
    cpSync(CLIENTS, source, {
      recursive: true,
      filter: path => !/(?:__pycache__|\.egg-info|\/build|\/dist|\.pytest_cache)$/.test(path),
    })
    const wheels = join(folder, 'wheels')
    const pip = ['-m', 'pip', '--disable-pip-version-check', 'wheel', '--quiet', '--no-deps']
    run(PYTHON, [...pip, '--no-index', '--no-build-isolation', '--wheel-dir', wheels, source])
    const [wheel = ''] = readdirSync(wheels)
    const version = proxyVersion()
    assert.equal(wheel, `pytest_focus_breaker-${version}-py3-none-any.whl`)
    const modules = readdirSync(join(CLIENTS, 'src/pytest_focus_breaker')).filter(name =>
      /\.py$|^py\.typed$/.test(name),
    )
    const information = ['LICENSE', 'METADATA', 'RECORD', 'WHEEL', 'entry_points.txt', 'top_level.txt']
    assert.deepEqual(
      run(PYTHON, ['-m', 'zipfile', '-l', join(wheels, wheel)])
        .trim()
        .split('\n')
        .slice(1)
        .map(line => line.split(' ')[0])
        .sort(),
      [
        ...modules.map(name => `pytest_focus_breaker/${name}`),
        ...information.map(name => `pytest_focus_breaker-${version}.dist-info/${name}`),
      ].sort(),
    )
  })

  test('installs without an index, and its modules can be imported with the libraries that they support', t => {
    if (!requireOrSkip(t, ...debian)) return
    const python = installed(t)
    for (const module of ['plugin', 'refusal', 'retry', 'httpx', 'aiohttp']) {
      run(python, ['-W', 'error', '-c', `import pytest_focus_breaker.${module}`])
    }
    const found = 'import pytest_focus_breaker, os; print(os.path.dirname(pytest_focus_breaker.__file__))'
    const directory = run(python, ['-c', found]).trim()
    assert.ok(existsSync(join(directory, 'py.typed')))
    assert.ok(directory.includes('site-packages'), directory)
    const help = run(python, ['-m', 'pytest', '--help'])
    assert.match(help, /--focus-breaker-url=URL/)
  })
})

describe('the types of the Python package', { concurrency: 2 }, () => {
  test('are complete: mypy reports nothing in strict mode', t => {
    if (!requireOrSkip(t, ...debian) || !hasMypy(t)) return
    const cache = join(folderOf(t), 'cache')
    const args = [
      '--config-file',
      'pyproject.toml',
      '--strict',
      '--cache-dir',
      cache,
      'src',
      'build_wheel.py',
    ]
    const { stdout, stderr } = spawnSync(MYPY, args, { cwd: CLIENTS, encoding: 'utf8', timeout: TIMEOUT_MS })
    assert.match(stdout, /^Success: no issues found in \d+ source files\n$/, stdout + stderr)
  })

  test('reach a program that uses the installed package', t => {
    if (!requireOrSkip(t, ...debian) || !hasMypy(t)) return
    const folder = folderOf(t)
    const python = installed(t)
    const check = (program: string) => {
      writeFileSync(join(folder, 'program.py'), program)
      const args = [
        '--strict',
        '--python-executable',
        python,
        '--cache-dir',
        join(folder, 'cache'),
        'program.py',
      ]
      return spawnSync(MYPY, args, { cwd: folder, encoding: 'utf8', timeout: TIMEOUT_MS }).stdout
    }
    assert.match(check(PROGRAM), /^Success: no issues found/)
    const wrong = check(
      `${PROGRAM}\nseconds: str = Retries().pause_after("GET", 503, {}, 1)\nrefusal_of(1)\n`,
    )
    assert.match(wrong, /program\.py:\d+: error: Incompatible types in assignment .*"Optional\[float\]"/)
    assert.match(wrong, /program\.py:\d+: error: Argument 1 to "refusal_of" has incompatible type "int"/)
  })
})

const PROGRAM = `
from typing import Dict

import aiohttp
import httpx
from pytest_focus_breaker import focus_headers
from pytest_focus_breaker.aiohttp import RefusalAwareMiddleware, RefusalAwareSession
from pytest_focus_breaker.httpx import AsyncRefusalAwareTransport, RefusalAwareTransport
from pytest_focus_breaker.refusal import Retries, refusal_of

headers: Dict[str, str] = focus_headers()
retries = Retries(total=2, methods=None)


def with_httpx() -> str:
    with httpx.Client(transport=RefusalAwareTransport(httpx.HTTPTransport(), retries=retries)) as client:
        return refusal_of(client.get("http://192.0.2.1").headers) or ""


async def with_aiohttp() -> int:
    middleware = RefusalAwareMiddleware(retries)
    httpx.AsyncClient(transport=AsyncRefusalAwareTransport(retries=retries))
    async with RefusalAwareSession(aiohttp.ClientSession(), retries) as client:
        async with client.get("http://192.0.2.1") as response:
            assert refusal_of(response.headers) is None and callable(middleware)
            return response.status
`

/** Builds the wheel from a copy of the package in this folder, with this umask for the copy and the build. */
function build(
  folder: string,
  env: Readonly<Record<string, string>>,
  umask: string,
  change: (source: string) => void = () => undefined,
): { readonly file: string; readonly hash: string } {
  mkdirSync(folder, { recursive: true })
  const source = join(folder, 'source')
  run('/bin/sh', ['-c', `umask ${umask}; cp -R "$0" "$1"`, CLIENTS, source])
  change(source)
  const script = `umask ${umask}; exec "$0" "$@"`
  const out = join(folder, 'wheels')
  run('/bin/sh', ['-c', script, PYTHON, join(source, 'build_wheel.py'), out], env)
  const [name = ''] = readdirSync(out)
  const file = join(out, name)
  return { file, hash: createHash('sha256').update(readFileSync(file)).digest('hex') }
}

/** Left over from another build or from a test run. */
function leaveOldFiles(source: string): void {
  const old = join(source, 'build/lib/pytest_focus_breaker')
  mkdirSync(old, { recursive: true })
  writeFileSync(join(old, 'old.py'), '')
  const cache = join(source, 'src/pytest_focus_breaker/__pycache__')
  mkdirSync(cache, { recursive: true })
  writeFileSync(join(cache, 'old.cpython-311.pyc'), '')
  cpSync(join(source, 'pyproject.toml'), join(source, 'src/pytest_focus_breaker.egg-info/PKG-INFO'))
}

let environment: string | undefined

/** The Python of a virtual environment with Debian's packages and the wheel. All tests share it. */
function installed(t: TestContext): string {
  if (environment === undefined) {
    const folder = mkdtempSync(join(tmpdir(), 'focus-breaker-wheel-'))
    process.once('exit', () => rmSync(folder, { recursive: true, force: true }))
    const { file } = build(join(folder, 'build'), { SOURCE_DATE_EPOCH: '1700000000' }, '022')
    environment = join(folder, 'venv')
    run(PYTHON, ['-m', 'venv', '--system-site-packages', '--without-pip', environment])
    const pip = ['-m', 'pip', '--disable-pip-version-check', '--python', join(environment, 'bin/python')]
    t.diagnostic(run(PYTHON, [...pip, 'install', '--quiet', '--no-index', file]))
  }
  return join(environment, 'bin/python')
}

function run(command: string, args: readonly string[], env: Readonly<Record<string, string>> = {}): string {
  const steers = /^(PYTHON|PIP_|PYTEST_|FOCUS_BREAKER_|SOURCE_DATE_EPOCH)/
  const shell = Object.entries(process.env).filter(([name]) => !steers.test(name))
  const { status, stdout, stderr } = spawnSync(command, args, {
    encoding: 'utf8',
    env: { ...Object.fromEntries(shell), PYTHONDONTWRITEBYTECODE: '1', ...env },
    timeout: TIMEOUT_MS,
  })
  assert.equal(status, 0, `${command} ${args.join(' ')}\n${stdout}${stderr}`)
  return stdout
}

function proxyVersion(): string {
  const manifest: unknown = JSON.parse(readFileSync(join(repositoryRoot, 'package.json'), 'utf8'))
  return String(at(manifest, 'version'))
}

function folderOf(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'focus-breaker-wheel-'))
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

function hasMypy(t: TestContext): boolean {
  if (existsSync(MYPY)) return true
  const reason = `not installed here: ${MYPY} of Debian's mypy`
  assert.notEqual(process.env.REQUIRE_INTEROP, '1', reason)
  t.skip(reason)
  return false
}
