import { execFileSync } from 'node:child_process'
import { mkdirSync, rmSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { repositoryRoot } from './harness.js'

/**
 * Bundles the program as the image does, and returns its main file for `TEST_MAIN`.
 *
 * It starts with a third of the CPU time of the compiled program, which loads a thousand files.
 */
export function bundleProgram(): string {
  // Inside the repository, so that packages that are not part of a bundle are found. Each compilation deletes it.
  const folder = join(repositoryRoot, '.build/bundled')
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  for (const name of ['src', 'package.json', 'config', 'page']) {
    symlinkSync(join(repositoryRoot, name), join(folder, name))
  }
  const script = join(repositoryRoot, 'deploy/image/bundle.mjs')
  // It warns that this machine's Node has no license file next to it.
  execFileSync(process.execPath, [script], { cwd: folder, stdio: ['ignore', 'ignore', 'pipe'] })
  return join(folder, 'dist/cli/main.js')
}
