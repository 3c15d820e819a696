/**
 * Prepares the contents of the package for `npm pack` and `npm publish`: npm runs it as `prepack`, and with `restore`
 * as `postpack`.
 *
 * The package contains its dependencies (`bundleDependencies`), so that users run the versions that were tested: those
 * in package-lock.json, pruned. npm packs `node_modules` as it finds it, so the installed folder is replaced by a
 * pruned copy while npm packs.
 */
import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const modules = join(root, 'node_modules')
const aside = join(root, '.packing')
const installed = join(aside, 'installed')
const compiler = join(modules, 'typescript/bin/tsc')

/** @typedef {{ version?: string, dev?: boolean, devOptional?: boolean }} Locked */

// Also cleans up after an interrupted run.
restore()
if (process.argv[2] !== 'restore') prepare()

function prepare() {
  /** @type {Readonly<Record<string, Locked>>} */
  const locked = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')).packages
  const paths = Object.keys(locked).filter(
    path => path !== '' && !locked[path]?.dev && !locked[path]?.devOptional,
  )
  const faults = faultsOf(paths, locked)
  if (faults.length > 0) {
    console.error(`cannot pack: ${faults.join('; ')}. Run "npm ci" first.`)
    process.exit(1)
  }
  // Otherwise compiled files without a source would be packed as well.
  rmSync(join(root, 'dist'), { recursive: true, force: true })
  run(root, compiler, '-p', 'tsconfig.build.json', '--sourceMap', 'false')

  mkdirSync(aside)
  for (const path of paths) {
    const from = join(root, path)
    const inner = join(from, 'node_modules')
    cpSync(from, join(aside, path), { recursive: true, filter: source => source !== inner })
  }
  run(aside, join(root, 'release/prune.js'))
  renameSync(modules, installed)
  renameSync(join(aside, 'node_modules'), modules)
}

function restore() {
  // A folder with the compiler is not the pruned copy: another installation has replaced it.
  if (existsSync(installed) && !existsSync(compiler)) {
    rmSync(modules, { recursive: true, force: true })
    renameSync(installed, modules)
  }
  rmSync(aside, { recursive: true, force: true })
}

/**
 * The differences between the installed packages and package-lock.json.
 *
 * @param {readonly string[]} paths
 * @param {Readonly<Record<string, Locked>>} locked
 * @returns {readonly string[]}
 */
function faultsOf(paths, locked) {
  if (!existsSync(compiler)) return ['the dependencies are not installed']
  return paths.flatMap(path => {
    const [found, expected] = [versionAt(path), locked[path]?.version]
    const other = found === expected ? [] : [`${path} is ${found}, package-lock.json says ${expected}`]
    const unknown = packagesBelow(path).filter(each => locked[each] === undefined)
    return [...other, ...unknown.map(each => `package-lock.json does not contain ${each}`)]
  })
}

/**
 * @param {string} path
 * @returns {string}
 */
function versionAt(path) {
  const manifest = join(root, path, 'package.json')
  return existsSync(manifest) ? JSON.parse(readFileSync(manifest, 'utf8')).version : 'not installed'
}

/**
 * The packages in the node_modules of the package at this path.
 *
 * @param {string} path
 * @returns {readonly string[]}
 */
function packagesBelow(path) {
  const folder = join(root, path, 'node_modules')
  if (!existsSync(folder)) return []
  const names = readdirSync(folder).filter(name => !name.startsWith('.'))
  return names
    .flatMap(name =>
      name.startsWith('@') ? readdirSync(join(folder, name)).map(own => `${name}/${own}`) : name,
    )
    .map(name => `${path}/node_modules/${name}`)
}

/**
 * @param {string} folder
 * @param {readonly string[]} command a script and its arguments
 */
function run(folder, ...command) {
  const { status } = spawnSync(process.execPath, command, { cwd: folder, stdio: 'inherit' })
  if (status !== 0) process.exit(status ?? 1)
}
