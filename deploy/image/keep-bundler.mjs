// First step of the image's build. It stops a build whose image could not start, and removes every development
// dependency except the bundler from package.json, so that `npm ci` fetches only what the build uses. The client for
// replicas, an optional peer dependency, becomes a dependency, because the image includes it. The lock file still fixes
// the version and the content of each package.
import { readFileSync, writeFileSync } from 'node:fs'

/** The image's entry point uses this flag, and Node exits at an unknown flag. */
const HEAP_FLAG = '--max-old-space-size-percentage'

if (!process.allowedNodeEnvironmentFlags.has(HEAP_FLAG)) {
  console.error(
    `Node ${process.version} of BUILD_IMAGE does not support ${HEAP_FLAG}. Use Node 24 or the latest Node 22.`,
  )
  process.exit(1)
}

const manifest = JSON.parse(readFileSync('package.json', 'utf8'))
const { esbuild } = manifest.devDependencies
const { ioredis, ...peerDependencies } = manifest.peerDependencies
const dependencies = { ...manifest.dependencies, ioredis }
const changed = { ...manifest, dependencies, peerDependencies, devDependencies: { esbuild } }
writeFileSync('package.json', JSON.stringify(changed, null, 2))
