import assert from 'node:assert/strict'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { parse as parseYaml } from 'yaml'
import { writeChart } from '../support/focus-server-chart.js'
import { at, circuitIs, freePort, type Program, requireOrSkip, testTools, until } from '../support/harness.js'
import { builtImage, podmanOrFail, runContainer } from '../support/image.js'
import { startIngress } from '../support/ingress.js'
import {
  destinationOf,
  fileOf,
  listAt,
  type Manifest,
  Manifests,
  membersAt,
  named,
  notRestricted,
  one,
  parse,
  podOf,
  routeOf,
  succeeded,
} from '../support/manifests.js'
import { assertHasResources, assertProbesAnswer, commandOf, POD_TOKEN, startPod } from '../support/pod.js'
import { assertOutput, Page } from '../support/recipe-page.js'
import { live, simulate } from '../support/simulate.js'
import { assertEnded, startLab, Workshop } from '../support/workshop.js'

const BASE = 'deploy/kubernetes'

test('the init container delays a Job until the fiber is connected, and fails it after the timeout', async t => {
  const page = new Page('kubernetes-init-container.md')
  const job: unknown = parseYaml(page.take('job.yaml'))
  const [waiting, gaveUp] = [page.take('text'), page.take('text')]
  page.assertAllTaken()
  assert.equal(at(job, 'spec', 'backoffLimit'), 0)
  const pod = at(podOf(job), 'spec')
  assert.equal(at(pod, 'restartPolicy'), 'Never')
  assert.deepEqual(notRestricted(pod), [])
  const container = at(pod, 'initContainers', 0)
  assertHasResources(container)
  assert.equal(at(container, 'securityContext', 'readOnlyRootFilesystem'), true)
  const lab = await startLab(t, { fiber: 'missing' })
  const workshop = new Workshop(t, { ...lab.examples, "'30m'": "'1s'" })
  const script = commandOf(container)
  const left = await workshop.run(script)
  assertEnded(left, 3)
  assertOutput(left.output, gaveUp)

  const patient = new Workshop(t, lab.examples)
  const running = patient.start(script, {}, line => {
    if (line.startsWith('waiting for fiber')) void lab.simulator.setFiber('present')
  })
  const ended = await running.ended
  assertEnded(ended, 0)
  assertOutput(ended.output, waiting)

  // As the notes of the page say.
  assert.match(page.text, /`--upstream http:\/\/focus-server:5000`/)
  const direct = script.replace(
    "'--proxy' 'http://focus-breaker:8080'",
    '--upstream http://focus-server:5000',
  )
  assert.notEqual(direct, script)
  assertEnded(await patient.run(direct), 0)
  await lab.simulator.close()
  assertEnded(await workshop.run(direct), 4)
  await lab.proxy.stop()
  assertEnded(await workshop.run(script), 5)
})

test('the init container needs less memory than its limit, from its start to its end', async t => {
  const container = initContainer()
  const limitMiB = Number.parseInt(String(at(container, 'resources', 'limits', 'memory')), 10)
  const lab = await startLab(t)
  const workshop = new Workshop(t, lab.examples)
  // The maximum resident memory, its own and what it shares with other programs: more than its limit counts.
  const hook = "process.on('exit', () => console.error('resident', process.resourceUsage().maxRSS))"
  const ended = await workshop.run(commandOf(container), {
    NODE_OPTIONS: `--import data:text/javascript,${encodeURIComponent(hook)}`,
  })
  assertEnded(ended, 0)
  const residentMiB = Number(/resident (\d+)/.exec(ended.output)?.[1]) / 1024
  assert.ok(residentMiB > 30 && residentMiB < limitMiB, `${residentMiB} MiB of ${limitMiB}`)
})

test('the init container exits cleanly in a container with its memory limit', async t => {
  const image = await builtImage(t)
  if (image === undefined) return
  const container = initContainer()
  const memory = String(at(container, 'resources', 'limits', 'memory')).replace('Mi', 'm')
  const lab = await startLab(t, { fiber: 'missing' })
  const words = listAt(container, 'args').map(word => lab.examples[String(word)] ?? String(word))
  const run = await runContainer(t, image, {
    flags: ['--memory', memory, '--read-only', '--cap-drop=ALL', '--security-opt', 'no-new-privileges'],
    command: words,
  })
  await until(async () => (await run.output()).includes('waiting for fiber'), {
    what: 'the init container waits',
  })
  await lab.simulator.setFiber('present')
  assert.equal(await run.ended(), 0)
  assert.match(await run.output(), /^ready/m)
  assert.equal(at(await run.inspect(), 'State', 'OOMKilled'), false)
  await podmanOrFail('rm', run.name)
})

test('the preStop hook of the sidecar ends the proxy in its container, with the permissions of a container', async t => {
  if (!requireOrSkip(t, 'kubectl')) return
  const image = await builtImage(t)
  if (image === undefined) return
  const { simulator } = await simulate(t)
  const [patch] = fileOf('overlays/sidecar/deployment.yaml')
  const sidecar = at(podOf(patch), 'spec', 'initContainers', 0)
  const run = await runContainer(t, image, {
    flags: [
      ...['--read-only', '--cap-drop=ALL', '--security-opt', 'no-new-privileges'],
      ...['--env', `FOCUS_BREAKER_UPSTREAM_URL=${simulator.url}`, '--env', 'FOCUS_BREAKER_SERVER_PORT=0'],
    ],
    command: listAt(sidecar, 'args').map(String),
  })
  await until(async () => (await run.output()).includes('"msg":"listening"'), { what: 'it listens' })
  const hook = await run.exec(...listAt(sidecar, 'lifecycle', 'preStop', 'exec', 'command').map(String))
  assert.equal(hook.status, 0, hook.stderr)
  assert.equal(await run.ended(), 0)
  assert.match(await run.output(), /"msg":"stopped"/)
})

/** The init container of the page on Jobs. */
function initContainer(): unknown {
  const job: unknown = parseYaml(new Page('kubernetes-init-container.md').take('job.yaml'))
  return at(podOf(job), 'spec', 'initContainers', 0)
}

for (const overlay of ['overlays/httproute', 'overlays/ingress']) {
  test(`${overlay}: an outage through the route, and a proxy that is down`, async t => {
    if (!requireOrSkip(t, 'kubectl')) return
    const manifests = new Manifests(t)
    writeChart(manifests, 'chart', { hasIngress: false })
    manifests.write(
      'own/server.yaml',
      readFileSync(join(manifests.directory, 'chart/templates/all.yaml'), 'utf8'),
    )
    manifests.write('own/kustomization.yaml', `resources: [../${BASE}/${overlay}, server.yaml]`)
    const deployed = await startDeployed(t, manifests.render('own'), 'focus-breaker')
    await assertGuards(deployed, deployed.send)
    // Only the routes that clients need are reachable from outside.
    assert.equal((await deployed.send('/focus-server/-/fiber')).status, 200)
    for (const path of ['metrics', 'clients', 'live', '']) {
      assert.equal((await deployed.send(`/focus-server/-/${path}`)).status, 404, path)
    }
    await assertWithoutProxy(deployed, deployed.send)
  })
}

for (const [component, deployment] of [
  ['overlays/take-over-service', 'focus-breaker'],
  ['overlays/sidecar', 'focus-server'],
] as const) {
  test(`${component}: an outage through the chart’s own Ingress, and a proxy that is down`, async t => {
    if (!requireOrSkip(t, 'kubectl', 'helm', 'nginx')) return
    const manifests = new Manifests(t)
    succeeded(manifests.helm('plugin', 'install', `${BASE}/helm`))
    writeChart(manifests, 'chart')
    const rendered = parse(
      succeeded(
        manifests.helm(
          ...['template', 'lab', 'chart', '--post-renderer', 'focus-breaker'],
          ...['--post-renderer-args', component],
        ),
      ),
    )
    const deployed = await startDeployed(t, rendered, deployment)
    // A real nginx with the rule of the Ingress, in front of the target of the Service.
    const { destination } = routeOf(rendered, '/focus-server/configure')
    assert.equal(destination.container, 'focus-breaker')
    const ingress = await startIngress(t, { upstream: deployed.url })
    const send = (path: string, init?: RequestInit) => fetch(`${ingress.url}${path}`, init)
    await assertGuards(deployed, send)
    await assertWithoutProxy(deployed, send)
  })
}

interface Deployed {
  readonly url: string
  readonly program: Program<string>
  readonly simulator: Awaited<ReturnType<typeof simulate>>['simulator']
  /** Sends a request to the destination of the rules for its path. */
  readonly send: (path: string, init?: RequestInit) => Promise<Response>
}

/** Runs the proxy of these documents in front of a simulated focus-server, each where its Service leads. */
async function startDeployed(
  t: TestContext,
  rendered: readonly Manifest[],
  deployment: string,
): Promise<Deployed> {
  const { simulator } = await simulate(t, { fiber: 'present', jobDurationMs: 1 })
  const proxy = await startPod(t, rendered, deployment, simulator.url)
  await assertProbesAnswer(proxy.healthUrl, proxy.container)
  await circuitIs(proxy, 'closed')
  return {
    url: proxy.url,
    program: proxy.program,
    simulator,
    send: async (path, init) => {
      const { destination, path: target } = routeOf(rendered, path)
      const url = destination.container === 'focus-breaker' ? proxy.url : simulator.url
      return await fetch(`${url}${target}`, init)
    },
  }
}

type Send = (path: string, init?: RequestInit) => Promise<Response>

const CONFIGURE: RequestInit = {
  method: 'POST',
  headers: { 'content-type': 'application/json' },
  body: JSON.stringify(live),
}

/** A configure passes, is refused in an outage without reaching focus-server, and passes again. */
async function assertGuards(deployed: Deployed, send: Send): Promise<void> {
  const configures = () => deployed.simulator.counters.byRoute['POST /configure'] ?? 0
  assert.equal((await send('/focus-server/configure', CONFIGURE)).status, 200)
  assert.equal(configures(), 1)
  await deployed.simulator.setFiber('missing')
  await circuitIs(deployed, 'open')
  for (const path of ['/focus-server/configure', '/focus-server/configure/', '/focus-server/%63onfigure']) {
    const refused = await send(path, CONFIGURE)
    assert.equal(refused.status, 503, path)
    assert.equal(at(await refused.json(), 'status'), 'waiting_for_fiber')
  }
  assert.equal((await send('/focus-server/channels')).status, 200)
  assert.equal((await send('/focus-server/-/fiber')).status, 503)
  assert.equal(configures(), 1)
  await deployed.simulator.setFiber('present')
  await circuitIs(deployed, 'closed')
  assert.equal((await send('/focus-server/configure', CONFIGURE)).status, 200)
  assert.equal(configures(), 2)
}

/** Requests that lead to the proxy fail while it is down, and focus-server itself is reachable. */
async function assertWithoutProxy(deployed: Deployed, send: Send): Promise<void> {
  assert.equal(await deployed.program.stop(), 0)
  const status = await send('/focus-server/channels').then(
    response => response.status,
    () => 'no connection',
  )
  assert.ok(status === 'no connection' || status === 502, String(status))
  assert.equal((await fetch(`${deployed.simulator.url}/channels`)).status, 200)
}

test('the sidecar starts, and lets focus-server start, while nothing listens on port 5000', async t => {
  if (!requireOrSkip(t, 'kubectl')) return
  const manifests = new Manifests(t)
  writeChart(manifests, 'chart', { hasIngress: false })
  manifests.write(
    'own/server.yaml',
    readFileSync(join(manifests.directory, 'chart/templates/all.yaml'), 'utf8'),
  )
  manifests.write(
    'own/kustomization.yaml',
    `resources: [server.yaml]\ncomponents: [../${BASE}/overlays/sidecar]`,
  )
  const nothing = `http://127.0.0.1:${await freePort()}`
  const sidecar = await startPod(t, manifests.render('own'), 'focus-server', nothing)
  await assertProbesAnswer(sidecar.healthUrl, sidecar.container)
})

test('the Deployment does what its options say, with each component', async t => {
  if (!requireOrSkip(t, 'kubectl')) return
  const manifests = new Manifests(t)
  const { simulator } = await simulate(t, { fiber: 'missing' })
  for (const components of [[], ['admin-token', 'history', 'monitoring', 'network-policy']]) {
    manifests.write(
      'own/kustomization.yaml',
      `resources: [../${BASE}/base]\ncomponents: [${components.map(name => `../${BASE}/components/${name}`)}]`,
    )
    const rendered = manifests.render('own')
    const hasToken = components.includes('admin-token')
    const proxy = await startPod(t, rendered, 'focus-breaker', simulator.url, {
      cluster: withServer(rendered),
    })
    await assertProbesAnswer(proxy.healthUrl, proxy.container)
    // Neither a missing fiber nor an override is a reason to restart it.
    const override = await setOverride(proxy.url)
    assert.equal(override.status, hasToken ? 200 : 404)
    await assertProbesAnswer(proxy.healthUrl, proxy.container)
    const monitor = rendered.find(({ kind }) => kind === 'ServiceMonitor')
    if (monitor !== undefined) {
      const metrics = await fetch(`${proxy.healthUrl}${at(monitor, 'spec', 'endpoints', 0, 'path')}`)
      assert.match(await metrics.text(), /^focus_breaker_circuit_state\{/m)
    }
    const history = proxy.folders.get('history')
    if (history !== undefined) {
      await until(() => readdirSync(history).includes('history.jsonl'), { what: 'the history is written' })
    }
    assert.equal(await proxy.program.stop(), 0)
  }
})

test('with two replicas an override over HTTP reaches one, and the file in the ConfigMap reaches both', async t => {
  if (!requireOrSkip(t, 'kubectl')) return
  const manifests = new Manifests(t)
  manifests.write(
    'own/kustomization.yaml',
    `resources: [../${BASE}/base]\ncomponents: [../${BASE}/components/replicas, ../${BASE}/components/admin-token]`,
  )
  const rendered = manifests.render('own')
  const { simulator } = await simulate(t, { fiber: 'present' })
  const start = () => startPod(t, rendered, 'focus-breaker', simulator.url, { cluster: withServer(rendered) })
  const replicas = [await start(), await start()] as const
  for (const replica of replicas) await circuitIs(replica, 'closed')
  const admits = async () =>
    await Promise.all(replicas.map(async ({ url }) => (await fetch(`${url}/-/fiber`)).status === 200))
  assert.equal((await setOverride(replicas[0].url)).status, 200)
  assert.deepEqual(await admits(), [false, true])
  await fetch(`${replicas[0].url}/-/override`, {
    method: 'DELETE',
    headers: { authorization: `Bearer ${POD_TOKEN}` },
  })
  assert.deepEqual(await admits(), [true, true])

  const page = new Page('kubernetes.md')
  const inAnHour = new Date(Date.now() + 3_600_000).toISOString()
  manifests.write('override.yaml', page.take('override.yaml').replace(/until: .*/, `until: ${inAnHour}`))
  manifests.write('live.json', JSON.stringify(one(rendered, 'ConfigMap', 'focus-breaker-override')))
  const [configMap] = parse(
    manifests.kubectl([
      ...['patch', '--local', '-f', 'live.json', '--type', 'merge', '--patch-file', 'override.yaml'],
      ...['-o', 'json'],
    ]),
  )
  for (const { folders } of replicas) {
    const folder = folders.get('override')
    assert.ok(folder !== undefined)
    for (const [name, text] of Object.entries(membersAt(configMap, 'data'))) {
      writeFileSync(join(folder, name), String(text))
    }
  }
  await until(async () => (await admits()).every(isAdmitted => !isAdmitted), {
    what: 'both replicas follow the override',
    timeoutMs: 20_000,
  })
})

function setOverride(url: string): Promise<Response> {
  return fetch(`${url}/-/override`, {
    method: 'PUT',
    headers: { authorization: `Bearer ${POD_TOKEN}` },
    body: JSON.stringify({ state: 'open', reason: 'a recipe is tried out', forSeconds: 60 }),
  })
}

/** These documents plus a Service focus-server, which is not part of them, and its Pods. */
function withServer(rendered: readonly Manifest[]): readonly Manifest[] {
  const labels = { app: 'focus-server' }
  const containers = [{ name: 'focus-server', ports: [{ containerPort: 5000 }] }]
  return [
    ...rendered,
    {
      kind: 'Deployment',
      metadata: { name: 'focus-server' },
      spec: { template: { metadata: { labels }, spec: { containers } } },
    },
    {
      kind: 'Service',
      metadata: { name: 'focus-server' },
      spec: { selector: labels, ports: [{ port: 5000 }] },
    },
  ]
}

test('every command of the page on Kubernetes does what the page says', async t => {
  if (!requireOrSkip(t, 'kubectl', 'helm', 'openssl')) return
  const page = new Page('kubernetes.md')
  const manifests = new Manifests(t)
  // There is no cluster: what would be sent to it is kept, and a release is rendered.
  manifests.write(
    'bin/kubectl',
    `#!/bin/bash
case $1 in
  kustomize) exec '${testTools.kubectl}' "$@" ;;
  apply) [ "$2" = -k ] && '${testTools.kubectl}' kustomize "$3" > applied.yaml || exit 1 ;;
esac
for word; do case $word in *.yaml) [ -f "$word" ] || exit 1 ;; esac; done
echo "$*"
`,
  )
  manifests.write(
    'bin/helm',
    `#!/bin/bash\nif [ "$1" = upgrade ]; then shift; set -- template "$@"; fi\nexec '${testTools.helm}' "$@"\n`,
  )
  manifests.run('/bin/chmod', ['+x', 'bin/kubectl', 'bin/helm'])
  writeChart(manifests, 'chart')
  const run = (script: string) =>
    succeeded(manifests.run('/bin/bash', ['-e', '-o', 'pipefail', '-c', `PATH="$PWD/bin:$PATH"\n${script}`]))

  manifests.write('kustomization.yaml', page.take('kustomization.yaml'))
  assert.match(
    run(page.take('bash')),
    /^create secret generic focus-breaker --from-literal=token=[0-9a-f]{64}$/m,
  )
  const applied = parse(readFileSync(join(manifests.directory, 'applied.yaml'), 'utf8'))
  const deployment = one(applied, 'Deployment')
  const pod = at(podOf(deployment), 'spec')
  assert.equal(at(named(listAt(pod, 'volumes'), 'token'), 'secret', 'secretName'), 'focus-breaker')
  assert.match(String(at(pod, 'containers', 0, 'image')), /^registry\.example\.com\/focus-breaker:/)
  assert.deepEqual(at(one(applied, 'HTTPRoute'), 'spec', 'parentRefs'), [
    { name: 'lab', namespace: 'gateway' },
  ])
  // The fifth method is Ingress, which uses the other folder.
  assert.match(page.text, /`deploy\/kubernetes\/overlays\/ingress` in place of `overlays\/httproute`/)

  // First the proxy, then the Service.
  const releases = run(page.take('bash'))
  assert.match(releases, /^rollout status deployment\/focus-breaker$/m)
  const [prepared = '', taken = ''] = releases.split('rollout status deployment/focus-breaker')
  assert.equal(leadsTo(prepared), 'focus-server')
  assert.equal(leadsTo(taken), 'focus-breaker')
  assert.equal(leadsTo(run(page.take('bash'))), 'focus-breaker')
  manifests.write('site/kustomization.yaml', page.take('site/kustomization.yaml'))
  const site = run(`helm template lab ./chart | ${BASE}/helm/post-render.sh ../../site`)
  assert.equal(leadsTo(site), 'focus-breaker')
  one(parse(site), 'ServiceMonitor')
  assert.match(site, /image: registry\.example\.com\/focus-breaker:/)
  manifests.run('/bin/rm', ['-r', 'home'])
  const sidecar = run(page.take('bash'))
  const { container } = destinationOf(parse(sidecar.slice(sidecar.indexOf('---'))), 'focus-server', 5000)
  assert.equal(container, 'focus-breaker')
  assert.match(
    run(page.take('bash')),
    /^patch deployment focus-server .*\npatch service focus-server --type json /,
  )

  manifests.write('second/without-alerts.yaml', page.take('second/without-alerts.yaml'))
  manifests.write(
    'second/kustomization.yaml',
    `${page.take('second/kustomization.yaml')}  - path: without-alerts.yaml
components: [../${BASE}/components/monitoring]
`,
  )
  const second = manifests.render('second')
  one(second, 'ServiceMonitor', 'focus-breaker-b')
  assert.deepEqual(
    second.filter(({ kind }) => kind === 'PrometheusRule'),
    [],
  )
  one(second, 'Service', 'focus-breaker-b')
  assert.deepEqual(
    listAt(one(second, 'HTTPRoute', 'focus-breaker-b'), 'spec', 'rules').map(rule =>
      at(rule, 'backendRefs', 0, 'name'),
    ),
    ['focus-breaker-b', 'focus-server-b', 'focus-breaker-b'],
  )
  manifests.write('override.yaml', page.take('override.yaml'))
  assert.match(run(page.take('bash')), /^patch configmap focus-breaker-override --type merge /)
  // The selector of the former Deployment cannot be changed.
  assert.equal(run(page.take('bash')), 'delete deployment focus-breaker\napply -k .\n')

  const lab = await startLab(t, { fiber: 'missing' })
  const asked = await new Workshop(t, lab.examples).run(page.take('bash'))
  assertOutput(asked.output, page.take('text'))
  page.assertAllTaken()
})

/** The name of the object that the Service focus-server of a release selects. */
function leadsTo(output: string): string {
  return destinationOf(parse(output.slice(output.indexOf('---'))), 'focus-server', 5000).deployment
}
