import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { parse, parseAllDocuments } from 'yaml'
import { at, repositoryRoot, requireOrSkip, startProgram, until } from '../support/harness.js'
import { assertLooksLike, Page } from '../support/recipe-page.js'
import { assertEnded, startLab, Workshop } from '../support/workshop.js'

const DEPLOY = 'deploy/kubernetes'
const IMAGE = 'focus-breaker:0.1.0'

/** A token as the Secret holds one. */
const TOKEN = 'recipe-token-0001'

/** What Kubernetes adds to the environment for a Service of that name. */
const SERVICE_LINKS = {
  FOCUS_BREAKER_SERVICE_HOST: '192.0.2.10',
  FOCUS_BREAKER_SERVICE_PORT: '8080',
  FOCUS_BREAKER_SERVICE_PORT_HTTP: '8080',
  FOCUS_BREAKER_PORT: 'tcp://192.0.2.10:8080',
  FOCUS_BREAKER_PORT_8080_TCP: 'tcp://192.0.2.10:8080',
  FOCUS_BREAKER_PORT_8080_TCP_PROTO: 'tcp',
  FOCUS_BREAKER_PORT_8080_TCP_PORT: '8080',
  FOCUS_BREAKER_PORT_8080_TCP_ADDR: '192.0.2.10',
}

test('the init container holds a Job until the fiber is there, and fails it when the time is over', async t => {
  const page = new Page('kubernetes-init-container.md')
  const job: unknown = parse(page.take('job.yaml'))
  const [waiting, gaveUp] = [page.take('text'), page.take('text')]
  page.assertAllTaken()
  assert.equal(at(job, 'spec', 'backoffLimit'), 0)
  const pod = at(job, 'spec', 'template', 'spec')
  assert.equal(at(pod, 'restartPolicy'), 'Never')
  const container = at(pod, 'initContainers', 0)
  assertHasNoRights(container, at(container, 'securityContext'))
  const lab = await startLab(t, { fiber: 'missing' })
  const workshop = new Workshop(t, { ...lab.examples, "'30m'": "'1s'" })
  const script = commandOf(container)
  const left = await workshop.run(script)
  assertEnded(left, 3)
  assertLooksLike(left.output, gaveUp)

  const patient = new Workshop(t, lab.examples)
  const running = patient.start(script, {}, line => {
    if (line.startsWith('waiting for fiber')) void lab.simulator.setFiber('present')
  })
  const ended = await running.ended
  assertEnded(ended, 0)
  assertLooksLike(ended.output, waiting)

  // As the notes have it.
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

test('the Deployment runs without rights, and its configuration does what it says', async t => {
  const [configMap, deployment, service, ...others] = documents('focus-breaker.yaml')
  assert.deepEqual(others, [])
  const pod = at(deployment, 'spec', 'template', 'spec')
  const container = at(pod, 'containers', 0)
  assertHasNoRights(container, {
    ...membersOf(pod, 'securityContext'),
    ...membersOf(container, 'securityContext'),
  })
  assert.equal(at(pod, 'automountServiceAccountToken'), false)
  assert.equal(at(pod, 'volumes', 0, 'configMap', 'name'), at(configMap, 'metadata', 'name'))
  const labels = at(deployment, 'spec', 'template', 'metadata', 'labels')
  assert.deepEqual(at(deployment, 'spec', 'selector', 'matchLabels'), labels)
  assert.deepEqual(at(service, 'spec', 'selector'), labels)
  assert.equal(at(service, 'spec', 'ports', 0, 'targetPort'), at(container, 'ports', 0, 'name'))

  const lab = await startLab(t)
  const mounted = (index: number) => String(at(container, 'volumeMounts', index, 'mountPath'))
  const folder = new Workshop(t, {})
  const workshop = new Workshop(t, {
    ...lab.examples,
    [mounted(0)]: folder.directory,
    [mounted(1)]: folder.directory,
  })
  for (const [name, text] of Object.entries(membersOf(configMap, 'data'))) {
    // Its mount paths and addresses are replaced as those of a page.
    workshop.write(name, String(text))
    folder.write(name, readFileSync(join(workshop.directory, name), 'utf8'))
  }
  folder.write('token', `${TOKEN}\n`)
  const script = commandOf(container)
  const checked = await workshop.run(`${script} --check-config`, SERVICE_LINKS)
  assertEnded(checked, 0)
  assertFits(checked.output, pod, container)
  assert.ok(!checked.output.includes(TOKEN))

  const { url, healthUrl } = await serve(t, workshop, script, SERVICE_LINKS)
  await assertProbesAnswer(healthUrl, container)
  const override = await fetch(`${url}/-/override`, {
    method: 'PUT',
    headers: { authorization: `Bearer ${TOKEN}` },
    body: JSON.stringify({ state: 'open', reason: 'a recipe is tried out', forSeconds: 60 }),
  })
  assert.equal(override.status, 200)
  // Neither its own word nor a missing fiber is a reason to restart it.
  await lab.simulator.setFiber('missing')
  await assertProbesAnswer(healthUrl, container)
})

test('the sidecar takes the place of focus-server’s port', async t => {
  const [patch, ...others] = documents('sidecar.yaml')
  const [service] = documents('sidecar-service.yaml')
  assert.deepEqual(others, [])
  const pod = at(patch, 'spec', 'template', 'spec')
  const container = at(pod, 'containers', 0)
  assertHasNoRights(container, at(container, 'securityContext'))
  assert.equal(at(service, 'spec', 'ports', 0, 'targetPort'), at(container, 'ports', 0, 'name'))
  assert.equal(at(service, 'spec', 'ports', 0, 'port'), 5000)
  const variables = at(container, 'env')
  assert.ok(Array.isArray(variables))
  const lab = await startLab(t)
  const env = Object.fromEntries(variables.map(one => [String(at(one, 'name')), String(at(one, 'value'))]))
  assert.equal(env.FOCUS_BREAKER_UPSTREAM_URL, 'http://127.0.0.1:5000')
  const real = { ...env, FOCUS_BREAKER_UPSTREAM_URL: lab.simulator.url }
  const workshop = new Workshop(t, lab.examples)
  const script = commandOf(container)
  const checked = await workshop.run(`${script} --check-config`, real)
  assertEnded(checked, 0)
  assertFits(checked.output, pod, container)
  const { healthUrl } = await serve(t, workshop, script, real)
  await assertProbesAnswer(healthUrl, container)
})

test('the page on Kubernetes makes the Secret that the Deployment mounts', async t => {
  if (!requireOrSkip(t, 'openssl')) return
  const page = new Page('kubernetes.md')
  const lab = await startLab(t, { fiber: 'missing' })
  const workshop = new Workshop(t, lab.examples)
  // There is no cluster: what it would be told is printed, and its files have to be there.
  workshop.install(
    'kubectl',
    'printf "%s\\n" "$*"; for word; do case $word in *.yaml) [ -f "$word" ];; esac || exit 1; done',
  )
  for (const name of ['focus-breaker.yaml', 'sidecar.yaml', 'sidecar-service.yaml']) {
    workshop.copy(join(DEPLOY, name))
  }
  const applied = await workshop.run(page.take('bash'))
  assertEnded(applied, 0)
  const [, deployment] = documents('focus-breaker.yaml')
  const secret = at(deployment, 'spec', 'template', 'spec', 'volumes', 1, 'secret', 'secretName')
  const token = new RegExp(`^create secret generic ${secret} --from-literal=token=[0-9a-f]{64}$`, 'm')
  assert.match(applied.output, token)
  assert.match(applied.output, /^apply -f /m)
  const patched = await workshop.run(page.take('bash'))
  assertEnded(patched, 0)
  assert.match(patched.output, /^patch deployment focus-server --patch-file .*sidecar\.yaml\npatch service /m)
  assertLooksLike((await workshop.run(page.take('bash'))).output, page.take('text'))
  page.assertAllTaken()
})

/** The documents of a file of `deploy/kubernetes`. */
function documents(name: string): readonly unknown[] {
  return parseAllDocuments(readFileSync(join(repositoryRoot, DEPLOY, name), 'utf8')).map(document => {
    assert.deepEqual([...document.errors, ...document.warnings], [])
    const value: unknown = document.toJS()
    return value
  })
}

/** What a container of the image runs, for bash: the image's entry point is the program. */
function commandOf(container: unknown): string {
  const dockerfile = readFileSync(join(repositoryRoot, 'Dockerfile'), 'utf8')
  assert.match(dockerfile, /^ENTRYPOINT \["node", "dist\/cli\/main\.js"\]$/m)
  assert.equal(at(container, 'image'), IMAGE)
  assert.equal(at(container, 'command'), undefined)
  const words = at(container, 'args')
  assert.ok(Array.isArray(words))
  return ['focus-breaker', ...words.map(word => `'${word}'`)].join(' ')
}

function membersOf(value: unknown, key: string): Readonly<Record<string, unknown>> {
  return { ...Object(at(value, key)) }
}

/** Runs the container's command on a free port of loopback, until the test is over; its URL is what it says. */
async function serve(
  t: TestContext,
  workshop: Workshop,
  script: string,
  env: Readonly<Record<string, string>>,
): Promise<{ readonly url: string; readonly healthUrl: string }> {
  const how = workshop.command(`exec ${script} --host 127.0.0.1 --port 0`)
  const { ready } = await startProgram(t, {
    ...how,
    env: { ...how.env, ...env, FOCUS_BREAKER_SERVER_HEALTH_PORT: '0' },
    readyWhen: line => (/"msg":"listening"/.test(line) ? line : undefined),
  })
  const line: unknown = JSON.parse(ready)
  return { url: String(at(line, 'url')), healthUrl: String(at(line, 'health')) }
}

function assertHasNoRights(container: unknown, security: unknown): void {
  assert.equal(at(security, 'runAsNonRoot'), true)
  // By number: that the image's user is `node` does not prove to Kubernetes that it is not root.
  assert.ok(Number(at(security, 'runAsUser')) > 0)
  assert.equal(at(security, 'readOnlyRootFilesystem'), true)
  assert.equal(at(security, 'allowPrivilegeEscalation'), false)
  assert.equal(at(security, 'privileged'), undefined)
  assert.deepEqual(at(security, 'capabilities'), { drop: ['ALL'] })
  for (const amount of [at(container, 'resources', 'requests'), at(container, 'resources', 'limits')]) {
    assert.match(String(at(amount, 'memory')), /^\d+Mi$/)
  }
}

/** The effective configuration agrees with the port, the probes, and the time that Kubernetes gives for the end. */
function assertFits(checked: string, pod: unknown, container: unknown): void {
  const server = at(parse(checked), 'server')
  assert.equal(at(server, 'port'), at(container, 'ports', 0, 'containerPort'))
  assert.equal(at(container, 'ports', 1, 'name'), 'health')
  assert.equal(at(server, 'healthPort'), at(container, 'ports', 1, 'containerPort'))
  const drainDelayMs = Number(at(server, 'drainDelayMs'))
  const neededMs = drainDelayMs + Number(at(server, 'drainTimeoutMs'))
  const graceMs = Number(at(pod, 'terminationGracePeriodSeconds')) * 1000
  assert.ok(graceMs >= neededMs + 5000, `${graceMs} ms of grace, ${neededMs} ms to drain`)
  const periodMs = Number(at(container, 'readinessProbe', 'periodSeconds')) * 1000
  if (drainDelayMs > 0) assert.ok(drainDelayMs > periodMs, `${drainDelayMs} ms, probed every ${periodMs} ms`)
}

async function assertProbesAnswer(url: string, container: unknown): Promise<void> {
  for (const [probe, expected] of [
    ['livenessProbe', '/-/live'],
    ['readinessProbe', '/-/ready'],
  ] as const) {
    const get = at(container, probe, 'httpGet')
    assert.equal(at(get, 'path'), expected)
    // Outside TLS, client certificates and limits.
    assert.equal(at(get, 'port'), 'health')
    await until(async () => (await fetch(`${url}${at(get, 'path')}`)).ok, { what: `${probe} succeeds` })
  }
}
