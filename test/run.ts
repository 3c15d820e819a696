import { readdirSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { spec, tap } from 'node:test/reporters'
import { fileURLToPath } from 'node:url'
import { bundleProgram } from './support/bundled-program.js'
import { removeImages } from './support/image.js'
import { type Pass, runPasses } from './support/test-passes.js'

/** Files that take longer than most. They run only with `--all`, several at a time, the longest first. */
const LONG = `
  e2e/outage-history clients/package recipes/kubernetes recipes/replicas e2e/outputs deploy/image page/page
  e2e/rollout e2e/record-of-replicas deploy/prometheus recipes/gateways e2e/freed-slots e2e/decision e2e/handshake e2e/http-edges
  e2e/exchange-matrix deploy/systemd interop/conformance page/outage page/languages interop/hostile-paths e2e/configuration-faults
  e2e/admin-token server/certificates e2e/notifications cli/command-line interop/rolling-restart e2e/evidence-encoded
  deploy/compose clients/retry packages/npm-package cli/wait packages/node-versions interop/paths deploy/kustomize
  interop/uvicorn interop/requests-client e2e/exhausted deploy/alerts e2e/probe-headers recipes/python e2e/fair-share
  e2e/tracing recipes/http-clients e2e/set-clock interop/root-path e2e/override-kept e2e/notifications-kept
  clients/http-libraries e2e/metadata-cache e2e/history-writable recipes/github-actions e2e/metrics e2e/drain-readings
  e2e/start page/two-hours e2e/scope packages/workflows e2e/guarded-routes interop/denied-paths e2e/evidence
  notifications/group-notices e2e/replicas-seen page/replicas e2e/overtaken-probes e2e/npm-start recipes/operating
  replicas/replicas e2e/override e2e/reload e2e/two-hours cli/healthcheck replicas/record-exchange
  replicas/disturbed packages/version page/report
`
  .trim()
  .split(/\s+/)

/** Files that measure time, processor or memory, or keep all cores busy. They run only with `--all`, one at a time. */
const ALONE = `
  clients/matrix clients/pytest
  clients/locust clients/locust-end e2e/soak e2e/hostile-run e2e/floods e2e/bounded-cost e2e/clients e2e/probe-connections
  e2e/replicas e2e/replica-faults e2e/flapping e2e/events e2e/recovery e2e/wait-for-fiber e2e/wait proxy/faults
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
  // Many times what the longest file takes.
  timeoutMs: (names === quick ? 5 : 20) * 60_000,
  env,
})
// More than one for each core: most tests wait more than they compute.
const concurrency = Math.min(availableParallelism() + 1, 4)
// The long tests start the program many times, so they use the bundle of the image, which starts fastest. The quick
// ones use the output of `npm run build`.
const { TEST_MAIN = isAll ? bundleProgram() : '' } = process.env
const passes = isAll
  ? [
      // They keep the cores busy. More at a time would not be faster, and tests that wait for a second would fail.
      pass(LONG, Math.max(2, availableParallelism()), { TEST_MAIN }),
      pass(quick, concurrency),
      pass(ALONE, 1),
    ]
  : [pass(quick, concurrency)]

const events = runPasses(passes, () => {
  process.exitCode = 1
})
// The same choice as in `node --test`.
if (process.stdout.isTTY) await pipeline(events, new spec(), process.stdout, { end: false })
else await pipeline(events, tap, process.stdout, { end: false })
await removeImages()
