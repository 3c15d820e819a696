// Removes from node_modules what Node never loads, before it is packed. Of each package stay its code, its JSON and
// its license: no source maps, types, documents, and none of its tests, examples and benchmarks.
import { readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'

/** Files that stay. */
const KEPT = /\.(js|cjs|mjs|json|node|wasm)$|^(licen[cs]e|notice|copying)/i

/** Folders that go. Only at the top of a package: below it the names may be those of code, as in `yaml/dist/doc`. */
const REMOVED_FOLDERS =
  /^(\..*|tests?|__tests__|specs?|docs?|examples?|bench|benchmarks?|coverage|fixtures|integration|types|typings)$/

/** Tests that stand beside the code they test. */
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
