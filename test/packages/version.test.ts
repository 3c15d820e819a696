import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { parse } from 'yaml'
import { at, repositoryRoot, requireOrSkip } from '../support/harness.js'
import { cleanSources, type Ended, npm, packageVersion } from '../support/packed-program.js'

const NEXT = '98.7.6'

/** Runs `release/version.js` of these sources. */
function version(sources: string, ...args: readonly string[]): Ended {
  return run(sources, process.execPath, [join(sources, 'release/version.js'), ...args])
}

test('package.json, the lock, the Python package, the image and all pages name one version', () => {
  assert.deepEqual(version(repositoryRoot, 'check'), { code: 0, stdout: '', stderr: '' })
})

test('each place that names another version is reported', t => {
  const sources = cleanSources(t)
  const other = '97.6.5'
  const places: readonly (readonly [file: string, before: string, after: string])[] = [
    ['package-lock.json', `  "version": "${packageVersion}"`, `  "version": "${other}"`],
    [
      'package-lock.json',
      `      "name": "focus-breaker",\n      "version": "${packageVersion}"`,
      `      "name": "focus-breaker",\n      "version": "${other}"`,
    ],
    ['clients/python/pyproject.toml', `\nversion = "${packageVersion}"`, `\nversion = "${other}"`],
    ['Dockerfile', `image.version="${packageVersion}"`, `image.version="${other}"`],
    ['README.md', '\n', `\ndocker run focus-breaker:${other}\n`],
    ['docs/reference/packages.md', '\n', `\nnpm install -g focus-breaker@${other}\n`],
    [
      'docs/explanation/client-cost.md',
      '\n',
      `\npip install pytest_focus_breaker-${other}-py3-none-any.whl\n`,
    ],
    ['docs/how-to/README.md', '\n', `\npip install pytest-focus-breaker==${other}\n`],
    ['deploy/added.yaml', '', `app.kubernetes.io/version: "${other}"\n`],
    ['deploy/added.yml', '', `image: registry.example.com/focus-breaker:v${other}\n`],
    ['deploy/kustomization.yaml', '', `newTag: ${other}\n`],
    ['CHANGELOG.md', '\n## Unreleased\n', `\n## Unreleased\n\n## ${other} - 2026-01-02\n`],
  ]
  for (const [file, before, after] of places) {
    const path = join(sources, file)
    const text = before === '' ? '' : readFileSync(path, 'utf8')
    assert.ok(text.includes(before), `${file} has ${before}`)
    writeFileSync(path, before === '' ? after : text.replace(before, after))
    const { code, stderr } = version(sources, 'check')
    assert.equal(code, 1, file)
    assert.match(
      stderr,
      new RegExp(`^package\\.json says ${packageVersion}, other places differ:\n${file}:`),
      file,
    )
    assert.ok(stderr.includes(other), stderr)
    assert.equal(stderr.trim().split('\n').length, 2, stderr)
    writeFileSync(path, text)
  }
  assert.equal(version(sources, 'check').code, 0)
})

test('npm version changes the version in all places, and commits and tags it', t => {
  if (!requireOrSkip(t, 'git')) return
  const sources = cleanSources(t)
  git(sources, 'init', '--quiet', '--initial-branch', 'main')
  git(sources, 'add', '--all')
  git(sources, 'commit', '--quiet', '--message', 'Begin')
  const [check, notes] = [releaseStep(t, 'version'), releaseStep(t, 'release')]
  assert.notEqual(check(sources, `v${NEXT}`).code, 0, 'a tag of a version that package.json does not name')
  const [, unreleased = ''] = readFileSync(join(sources, 'CHANGELOG.md'), 'utf8').split(/^## .*$/m)

  const { code, stderr } = npm(sources, ['version', NEXT, '--message', 'Release %s'], IDENTITY)
  assert.equal(code, 0, stderr)

  assert.deepEqual(version(sources, 'check', `v${NEXT}`), { code: 0, stdout: '', stderr: '' })
  assert.equal(git(sources, 'status', '--porcelain'), '')
  assert.equal(git(sources, 'describe', '--exact-match'), `v${NEXT}\n`)
  const changed = git(sources, 'show', '--name-only', '--format=%s').trim().split('\n')
  for (const file of [
    'Release 98.7.6',
    'CHANGELOG.md',
    'Dockerfile',
    'clients/python/pyproject.toml',
    'package-lock.json',
  ]) {
    assert.ok(changed.includes(file), `${file} in ${changed.join(', ')}`)
  }
  const today = new Date().toISOString().slice(0, 10)
  assert.match(
    readFileSync(join(sources, 'CHANGELOG.md'), 'utf8'),
    new RegExp(`^## Unreleased\n\n## ${NEXT} - ${today}\n`, 'm'),
  )

  // The steps of the workflow for the tag.
  assert.equal(check(sources, `v${NEXT}`).code, 0)
  const wrong = check(sources, 'v98.7.7')
  assert.equal(wrong.code, 1)
  assert.match(wrong.stderr, /the tag is v98\.7\.7, not v98\.7\.6/)
  assert.equal(notes(sources, `v${NEXT}`).code, 0)
  assert.equal(readFileSync(join(sources, 'notes.md'), 'utf8').trim(), unreleased.trim())
})

const IDENTITY = {
  GIT_AUTHOR_NAME: 'Example',
  GIT_AUTHOR_EMAIL: 'author@example.com',
  GIT_COMMITTER_NAME: 'Example',
  GIT_COMMITTER_EMAIL: 'author@example.com',
  GIT_CONFIG_GLOBAL: '/dev/null',
  GIT_CONFIG_SYSTEM: '/dev/null',
}

function git(folder: string, ...args: readonly string[]): string {
  const { code, stdout, stderr } = run(folder, 'git', args, IDENTITY)
  assert.equal(code, 0, stderr)
  return stdout
}

/** The first command of a job of release.yml, as its runner starts it for a tag. */
function releaseStep(t: TestContext, job: string): (folder: string, tag: string) => Ended {
  const workflow: unknown = parse(readFileSync(join(repositoryRoot, '.github/workflows/release.yml'), 'utf8'))
  const steps = at(workflow, 'jobs', job, 'steps')
  assert.ok(Array.isArray(steps))
  const script = String(steps.map(step => at(step, 'run')).find(each => each !== undefined))
  t.diagnostic(script)
  return (folder, tag) => run(folder, 'bash', ['-euc', script], { GITHUB_REF_NAME: tag, RUNNER_TEMP: folder })
}

function run(
  folder: string,
  command: string,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Ended {
  const { status, stdout, stderr } = spawnSync(command, args, {
    cwd: folder,
    encoding: 'utf8',
    env: { PATH: process.env.PATH, HOME: process.env.HOME, ...env },
  })
  return { code: status, stdout, stderr }
}
