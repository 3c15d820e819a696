/**
 * Keeps one version in the package, the image, the Python package and every page that names one of them.
 *
 *     node release/version.js check [TAG]   reports each place that differs from package.json, and exits with 1
 *     node release/version.js set           writes the version of package.json to all places; `npm version` runs it
 *     node release/version.js notes         prints the section of the changelog about the version
 */
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
/** @type {string} */
const version = JSON.parse(read('package.json')).version

const NUMBER = /\d+\.\d+\.\d+(?:-(?:alpha|beta|rc)\.\d+)?/.source

/** Patterns for our version in any file: in the name of an image or package, or in a manifest. */
const EVERYWHERE = [
  '(?<=focus-breaker(?::|@|-|==)v?)',
  '(?<=focus_breaker-)',
  '(?<=app\\.kubernetes\\.io/version: ["\']?)',
  '(?<=newTag: ["\']?v?)',
  '(?<=org\\.opencontainers\\.image\\.version=["\']?)',
]

/**
 * Further patterns for single files.
 *
 * @type {Readonly<Record<string, readonly string[]>>}
 */
const IN = {
  'deploy/kubernetes/helm/plugin.yaml': ['(?<=^version: )'],
  'clients/python/pyproject.toml': ['(?<=^version = ")'],
  'package-lock.json': ['(?<=^ {2}"version": ")', '(?<="": \\{\\s+"name": "focus-breaker",\\s+"version": ")'],
}

/** Files that belong to other projects, are generated, or, like the changelog, name more than one version. */
const NOT_OURS =
  /^(?:\.git|\.build|node_modules|dist|build|__pycache__|bin|package\.json|CHANGELOG\.md)$|\.(?:png|tgz|whl)$/

const RELEASE = new RegExp(`^## \\[?(${NUMBER})\\]?.*$`, 'm')

const [command, tag] = process.argv.slice(2)
if (command === 'check') check()
else if (command === 'set') set()
else if (command === 'notes') process.stdout.write(`${notes()}\n`)
else end('usage: version.js check [TAG] | set | notes')

function check() {
  const released = RELEASE.exec(read('CHANGELOG.md'))?.[1]
  const differ = files().flatMap(file => {
    const text = read(file)
    const others = [...text.matchAll(patternFor(file))].filter(([found]) => found !== version)
    return others.map(({ index, 0: found }) => `${file}:${text.slice(0, index).split('\n').length}: ${found}`)
  })
  if (released !== version && (released !== undefined || tag !== undefined)) {
    differ.push(`CHANGELOG.md: the newest release is ${released ?? 'missing'}`)
  }
  if (tag !== undefined && tag !== `v${version}`) differ.push(`the tag is ${tag}, not v${version}`)
  if (differ.length > 0) end(`package.json says ${version}, other places differ:\n${differ.join('\n')}`)
}

function set() {
  const changed = files().filter(file => rewrite(file, text => text.replace(patternFor(file), version)))
  const today = new Date().toISOString().slice(0, 10)
  const isNew = RELEASE.exec(read('CHANGELOG.md'))?.[1] !== version
  if (
    isNew &&
    rewrite('CHANGELOG.md', text => text.replace(/^## Unreleased$/m, `$&\n\n## ${version} - ${today}`))
  ) {
    changed.push('CHANGELOG.md')
  }
  // `npm version` commits what is staged.
  if (existsSync(join(root, '.git')) && changed.length > 0) {
    const { status } = spawnSync('git', ['add', '--', ...changed], { cwd: root, stdio: 'inherit' })
    if (status !== 0) end('cannot stage the changed files with git')
  }
}

/** @returns {string} the section of the changelog, without its heading */
function notes() {
  const sections = read('CHANGELOG.md').split(/^(?=## )/m)
  const section = sections.find(each => RELEASE.exec(each)?.[1] === version)
  return section?.replace(/^.*\n/, '').trim() ?? end(`CHANGELOG.md has no section for ${version}`)
}

/**
 * @param {string} file
 * @returns {RegExp} a pattern that matches only the versions themselves
 */
function patternFor(file) {
  return new RegExp(`(?:${[...EVERYWHERE, ...(IN[file] ?? [])].join('|')})${NUMBER}`, 'gm')
}

/**
 * The files that may name a version, by their paths from the root.
 *
 * @returns {readonly string[]}
 */
function files(folder = '') {
  return readdirSync(join(root, folder), { withFileTypes: true })
    .filter(({ name }) => !NOT_OURS.test(name))
    .flatMap(entry => {
      const path = folder === '' ? entry.name : `${folder}/${entry.name}`
      if (entry.isDirectory()) return files(path)
      return entry.isFile() ? [path] : []
    })
}

/**
 * @param {string} file
 * @param {(text: string) => string} change
 * @returns {boolean} whether it changed
 */
function rewrite(file, change) {
  const before = read(file)
  const after = change(before)
  if (after !== before) writeFileSync(join(root, file), after)
  return after !== before
}

/**
 * @param {string} file
 * @returns {string}
 */
function read(file) {
  return readFileSync(join(root, file), 'utf8')
}

/**
 * @param {string} message
 * @returns {never}
 */
function end(message) {
  console.error(message)
  process.exit(1)
}
