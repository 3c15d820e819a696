import { execFileSync } from 'node:child_process'
import { mkdirSync, rmSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { repositoryRoot } from './harness.js'

/**
 * Bundles the program as the image does, and gives its main file for `TEST_MAIN`.
 *
 * It starts with a third of the processor time that the compiled program takes, which loads a thousand files.
 */
export function bundleProgram(): string {
  // Below the repository, so that the packages that a bundle does not hold are found. Each compilation deletes it.
  const folder = join(repositoryRoot, '.build/bundled')
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  for (const name of ['src', 'package.json', 'config', 'page']) {
    symlinkSync(join(repositoryRoot, name), join(folder, name))
  }
  const script = join(repositoryRoot, 'deploy/image/bundle.mjs')
  // It warns that this machine's Node has no license beside it.
  execFileSync(process.execPath, [script], { cwd: folder, stdio: ['ignore', 'ignore', 'pipe'] })
  return join(folder, 'dist/cli/main.js')
}
