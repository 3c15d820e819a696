// Second step of the image's build: bundles src with its dependencies into dist, and writes the licenses of Node and of
// the bundled packages, which these licenses require.
// docs/adr/0015-image.md explains why the program is bundled.
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { build } from 'esbuild'

const { peerDependencies } = JSON.parse(readFileSync('package.json', 'utf8'))

/** CommonJS packages use these three, which a bundle of ES modules lacks. */
const COMMONJS = `
import { createRequire as bundleRequire } from 'node:module'
import { fileURLToPath as bundlePath } from 'node:url'
const require = bundleRequire(import.meta.url)
const __filename = bundlePath(import.meta.url)
const __dirname = bundlePath(new URL('.', import.meta.url))`

const { metafile } = await build({
  entryPoints: ['src/cli/main.ts', 'src/cli/healthcheck.ts'],
  outdir: 'dist/cli',
  bundle: true,
  // Each command stays in its own file, which is loaded only when needed, and so does the client for replicas.
  splitting: true,
  format: 'esm',
  platform: 'node',
  // This stage's Node is the one in the image.
  target: `node${process.versions.node}`,
  external: Object.keys(peerDependencies),
  banner: { js: COMMONJS.trim() },
  legalComments: 'none',
  metafile: true,
  logLevel: 'warning',
})

const folders = new Set(
  Object.keys(metafile.inputs).flatMap(
    path => /^(?:.*\/)?node_modules\/(?:@[^/]+\/)?[^/]+/.exec(path)?.[0] ?? [],
  ),
)
const sections = [...folders].sort().map(folder => {
  const { name, version, license } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'))
  const texts = readdirSync(folder)
    .filter(file => /^(licen[cs]e|notice|copying)/i.test(file))
    .map(file => readFileSync(join(folder, file), 'utf8').trim())
  return [`${name} ${version}, ${license}`, ...texts].join('\n\n')
})

// The path in Node's own archives and images.
const nodeLicense = join(dirname(process.execPath), '../LICENSE')
if (existsSync(nodeLicense)) {
  sections.unshift(`Node.js ${process.version}\n\n${readFileSync(nodeLicense, 'utf8').trim()}`)
} else {
  console.warn(`The image lacks the license of Node: BUILD_IMAGE has no ${nodeLicense}`)
}
writeFileSync('THIRD-PARTY-LICENSES', `${sections.join(`\n\n${'-'.repeat(80)}\n\n`)}\n`)
