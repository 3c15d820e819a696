// First step of the image's build: leaves no development dependency in package.json but the bundler, so that `npm ci` fetches
// nothing that the build does not use. The lock file still says which version it is and what its content must be.
import { readFileSync, writeFileSync } from 'node:fs'

const manifest = JSON.parse(readFileSync('package.json', 'utf8'))
const { esbuild } = manifest.devDependencies
writeFileSync('package.json', JSON.stringify({ ...manifest, devDependencies: { esbuild } }, null, 2))
