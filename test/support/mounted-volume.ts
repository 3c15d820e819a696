import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'

/** Files as Kubernetes mounts a ConfigMap or a Secret: links through `..data`, the only thing that is replaced. */
export type MountedVolume = {
  /** The path of a file in the volume, whether it exists or not. */
  readonly path: (name: string) => string
  /** Replaces all files at once with the given ones. */
  readonly replace: (files: Readonly<Record<string, string>>) => void
}

/** A mounted volume that is removed after the test. */
export function mountedVolume(t: TestContext, files: Readonly<Record<string, string>>): MountedVolume {
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-volume-'))
  t.after(() => rmSync(directory, { recursive: true, force: true }))
  let version = 0
  const linked = new Set<string>()
  const replace = (next: Readonly<Record<string, string>>) => {
    version += 1
    const target = `..version_${version}`
    mkdirSync(join(directory, target))
    for (const [name, text] of Object.entries(next)) writeFileSync(join(directory, target, name), text)
    symlinkSync(target, join(directory, '..data_new'))
    renameSync(join(directory, '..data_new'), join(directory, '..data'))
    if (version > 1) rmSync(join(directory, `..version_${version - 1}`), { recursive: true })
    for (const name of Object.keys(next)) {
      if (!linked.has(name)) symlinkSync(join('..data', name), join(directory, name))
      linked.add(name)
    }
  }
  replace(files)
  return { path: name => join(directory, name), replace }
}
