import { readdirSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { spec, tap } from 'node:test/reporters'
import { fileURLToPath } from 'node:url'
import { bundleProgram } from './support/bundled-program.js'
import { removeImages } from './support/image.js'
import { type Pass, runPasses } from './support/test-passes.js'

/** Files that take longer than most. They run only with `--all`, beside others, the longest first. */
const LONG = `
  deploy/prometheus e2e/rollout e2e/ledger e2e/history-writable interop/conformance e2e/handshake e2e/outputs e2e/http-edges interop/hostile-paths
  clients/package recipes/kubernetes packages/npm-package packages/node-versions packages/workflows e2e/no-place-for-ever e2e/set-clock e2e/guarded-routes e2e/tracing cli/wait
  e2e/override-kept e2e/exchange-matrix e2e/decision interop/paths interop/denied-paths clients/retry deploy/alerts
  e2e/admin-token e2e/evidence-encoded e2e/notifications-kept e2e/start e2e/probe-headers cli/command-line
  e2e/configuration-faults e2e/metadata-cache e2e/evidence e2e/exhausted
  e2e/overtaken-probes e2e/fair-share interop/requests-client e2e/drain-readings clients/http-libraries
  interop/rolling-restart interop/uvicorn interop/root-path recipes/python recipes/http-clients
  deploy/image deploy/systemd deploy/compose deploy/kustomize recipes/gateways recipes/github-actions server/certificates e2e/npm-start e2e/metrics e2e/scope
`
  .trim()
  .split(/\s+/)

/** Files that measure time, processor or memory, or keep all cores busy. They run only with `--all`, one at a time. */
const ALONE = `
  clients/matrix clients/pytest clients/locust clients/locust-end e2e/soak e2e/hostile-run e2e/floods
  e2e/bounded-cost e2e/clients e2e/probe-connections e2e/flapping e2e/events e2e/notifications e2e/recovery e2e/wait-for-fiber
  e2e/wait page/page page/outage page/two-hours proxy/faults
`
  .trim()
  .split(/\s+/)

const root = dirname(fileURLToPath(import.meta.url))
const found = readdirSync(root, { recursive: true, encoding: 'utf8' })
  .filter(name => name.endsWith('.test.js'))
  .map(name => name.slice(0, -'.test.js'.length))
  .sort()
const absent = [...LONG, ...ALONE].filter(name => !found.includes(name))
if (absent.length > 0) throw new Error(`no such test files: ${absent.join(', ')}`)

const quick = found.filter(name => !LONG.includes(name) && !ALONE.includes(name))
const isAll = process.argv.includes('--all')
const pass = (names: readonly string[], concurrency: number, env: Pass['env'] = {}): Pass => ({
  files: names.map(name => join(root, `${name}.test.js`)),
  concurrency,
  env,
})
// More than one for each core: most tests wait more than they compute.
const concurrency = Math.min(availableParallelism() + 1, 4)
// The long tests start the program again and again: the bundle of the image, which starts soonest. The quick ones run
// what `npm run build` makes.
const { TEST_MAIN = isAll ? bundleProgram() : '' } = process.env
const passes = isAll
  ? [pass(LONG, concurrency, { TEST_MAIN }), pass(quick, concurrency), pass(ALONE, 1, { TEST_MAIN })]
  : [pass(quick, concurrency)]

const events = runPasses(passes, () => {
  process.exitCode = 1
})
// As `node --test` does.
if (process.stdout.isTTY) await pipeline(events, new spec(), process.stdout, { end: false })
else await pipeline(events, tap, process.stdout, { end: false })
await removeImages()
