import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import type { TestContext } from 'node:test'
import { at, repositoryRoot, until } from './harness.js'

const TIMEOUT_MS = 240_000

/**
 * The compiled tests, which each compilation deletes first: a package in this folder is never made from older sources.
 */
const BUILD = join(repositoryRoot, '.build')
const TARBALL = join(BUILD, 'packed/focus-breaker.tgz')

/** Files that are not sources: they are installed or generated. */
const NOT_SOURCE = /(?:^|\/)(?:\.git|\.build|\.packing|node_modules|dist|__pycache__|test\/tools\/bin)$/

/** How a command ended and what it printed. */
export interface Ended {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

/** The version that package.json names. */
export const packageVersion = String(
  at(JSON.parse(readFileSync(join(repositoryRoot, 'package.json'), 'utf8')), 'version'),
)

/** A copy of the sources, like a fresh clone, with nothing installed and nothing built. */
export function cleanSources(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'focus-breaker-sources-'))
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  copySources(folder)
  return folder
}

/** Gives a copy of the sources the dependencies that are installed here. */
export function withDependencies(sources: string): void {
  const [from, to] = [join(repositoryRoot, 'node_modules'), join(sources, 'node_modules')]
  // Links are enough if the file system supports them: nothing is changed in it.
  const { status } = spawnSync('cp', ['-Rl', from, to], { stdio: 'ignore' })
  if (status === 0) return
  rmSync(to, { recursive: true, force: true })
  cpSync(from, to, { recursive: true, verbatimSymlinks: true })
}

/** Runs npm in a folder, offline, and without the options of the npm that started the tests. */
export function npm(
  folder: string,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Ended {
  const { status, stdout, stderr } = spawnSync('npm', [...args, '--offline', '--no-audit', '--no-fund'], {
    cwd: folder,
    encoding: 'utf8',
    env: {
      PATH: process.env.PATH,
      HOME: process.env.HOME,
      NPM_CONFIG_UPDATE_NOTIFIER: 'false',
      ...env,
    },
    maxBuffer: 64 * 1024 * 1024,
    timeout: TIMEOUT_MS,
  })
  return { code: status, stdout, stderr }
}

/**
 * The output of `npm pack` in a fresh clone with its dependencies installed. All test files share it: the first one
 * makes it, the others wait.
 */
export async function packedProgram(): Promise<string> {
  const lock = join(BUILD, 'packing')
  try {
    mkdirSync(lock)
  } catch {
    const failed = join(lock, 'failed')
    await until(() => existsSync(TARBALL) || existsSync(failed), {
      what: 'the package is packed',
      timeoutMs: TIMEOUT_MS,
    })
    assert.ok(existsSync(TARBALL), 'another test file could not pack it')
    return TARBALL
  }
  const sources = mkdtempSync(join(BUILD, 'sources-'))
  try {
    copySources(sources)
    withDependencies(sources)
    // Left over from another build.
    mkdirSync(join(sources, 'dist/domain'), { recursive: true })
    writeFileSync(join(sources, 'dist/domain/removed-since.js'), '')
    const { code, stderr } = npm(sources, ['pack'])
    assert.equal(code, 0, stderr)
    assert.ok(
      existsSync(join(sources, 'node_modules/typescript')),
      'the installed dependencies were not restored',
    )
    assert.ok(!existsSync(join(sources, '.packing')))
    mkdirSync(dirname(TARBALL), { recursive: true })
    renameSync(join(sources, `focus-breaker-${packageVersion}.tgz`), TARBALL)
  } catch (error) {
    writeFileSync(join(lock, 'failed'), '')
    throw error
  } finally {
    rmSync(sources, { recursive: true, force: true })
  }
  return TARBALL
}

/** Installs the packed program in an empty folder, and returns the folder. */
export async function installedProgram(t: TestContext): Promise<string> {
  const tarball = await packedProgram()
  const folder = mkdtempSync(join(tmpdir(), 'focus-breaker-installed-'))
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  writeFileSync(join(folder, 'package.json'), '{}')
  const { code, stderr } = npm(folder, ['install', '--engine-strict', tarball])
  assert.equal(code, 0, stderr)
  assert.doesNotMatch(stderr, /EBADENGINE|deprecated/)
  return folder
}

function copySources(folder: string): void {
  const isSource = (path: string) => !NOT_SOURCE.test(path.slice(repositoryRoot.length))
  // One by one, because a folder cannot be copied into itself.
  for (const name of readdirSync(repositoryRoot).filter(each => isSource(join(repositoryRoot, each)))) {
    cpSync(join(repositoryRoot, name), join(folder, name), { recursive: true, filter: isSource })
  }
}
