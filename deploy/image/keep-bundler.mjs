// First step of the image's build. It ends a build whose image could not start, and leaves no development dependency in
// package.json but the bundler, so that `npm ci` fetches nothing that the build does not use. The client for replicas, an
// optional peer of the package, becomes a dependency: the image holds it. The lock file still says which version each one is
// and what its content must be.
import { readFileSync, writeFileSync } from 'node:fs'

/** The entry point of the image has this flag, and Node ends at a flag that it does not know. */
const HEAP_FLAG = '--max-old-space-size-percentage'

if (!process.allowedNodeEnvironmentFlags.has(HEAP_FLAG)) {
  console.error(
    `Node ${process.version} of BUILD_IMAGE does not know ${HEAP_FLAG}. Use Node 24, or the newest of Node 22.`,
  )
  process.exit(1)
}

const manifest = JSON.parse(readFileSync('package.json', 'utf8'))
const { esbuild } = manifest.devDependencies
const { ioredis, ...peerDependencies } = manifest.peerDependencies
const dependencies = { ...manifest.dependencies, ioredis }
const changed = { ...manifest, dependencies, peerDependencies, devDependencies: { esbuild } }
writeFileSync('package.json', JSON.stringify(changed, null, 2))
