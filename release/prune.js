// Removes files that Node never loads from node_modules before it is packed: source maps, types, documents, tests,
// examples and benchmarks. Code, JSON files and licenses stay.
import { readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'

/** Files that are kept. */
const KEPT = /\.(js|cjs|mjs|json|node|wasm)$|^(licen[cs]e|notice|copying)/i

/**
 * Folders that are removed, only at the top of a package: deeper, the name may belong to code, as in `yaml/dist/doc`.
 */
const REMOVED_FOLDERS =
  /^(\..*|tests?|__tests__|specs?|docs?|examples?|bench|benchmarks?|coverage|fixtures|integration|types|typings)$/

/** Tests next to the code that they test. */
const REMOVED_FILES = /\.(test|spec)(-d)?\.[cm]?js$/

prunePackages('node_modules')

/** @param {string} folder */
function prunePackages(folder) {
  for (const name of readdirSync(folder)) {
    const path = join(folder, name)
    if (name.startsWith('@')) prunePackages(path)
    else if (name.startsWith('.')) remove(path)
    else prunePackage(path)
  }
}

/** @param {string} folder */
function prunePackage(folder) {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name)
    if (!entry.isDirectory()) pruneFile(path, entry.name)
    else if (entry.name === 'node_modules') prunePackages(path)
    else if (REMOVED_FOLDERS.test(entry.name)) remove(path)
    else pruneFolder(path)
  }
}

/** @param {string} folder */
function pruneFolder(folder) {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name)
    if (entry.isDirectory()) pruneFolder(path)
    else pruneFile(path, entry.name)
  }
  if (readdirSync(folder).length === 0) remove(folder)
}

/**
 * @param {string} path
 * @param {string} name
 */
function pruneFile(path, name) {
  if (!KEPT.test(name) || REMOVED_FILES.test(name)) remove(path)
}

/** @param {string} path */
function remove(path) {
  rmSync(path, { recursive: true })
}
