import assert from 'node:assert/strict'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { parse as parseYaml } from 'yaml'
import { at, repositoryRoot, startProgram, until } from './harness.js'
import { destinationOf, listAt, type Manifest, membersAt, named, one, podOf } from './manifests.js'
import type { Examples } from './recipe-page.js'
import { assertEnded, Workshop } from './workshop.js'

/** A token as in the Secret focus-breaker. */
export const POD_TOKEN = 'recipe-token-0001'

/** The files of each Secret, as a test made them. */
export type Secrets = Readonly<Record<string, Readonly<Record<string, string>>>>

/** What Kubernetes adds to the environment for a Service of this name. */
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

/** Tests have no time for outages of the usual length, nor for gateways to notice that a Pod ends. */
const FAST = {
  FOCUS_BREAKER_PROBE_PERIOD_MS: '100',
  FOCUS_BREAKER_RECOVERY_RAMP_MS: '100',
  FOCUS_BREAKER_SERVER_DRAIN_DELAY_MS: '0',
}

/** What a container of the image runs, for bash: the entry point of the image is the program. */
export function commandOf(container: unknown): string {
  const dockerfile = readFileSync(join(repositoryRoot, 'Dockerfile'), 'utf8')
  assert.match(
    dockerfile,
    /^ENTRYPOINT \["[/\w]*node", "--max-old-space-size-percentage=\d+", "dist\/cli\/main\.js"\]$/m,
  )
  assert.match(String(at(container, 'image')), /^focus-breaker:/)
  assert.equal(at(container, 'command'), undefined)
  const words = listAt(container, 'args')
  return ['focus-breaker', ...words.map(word => `'${word}'`)].join(' ')
}

/**
 * Runs the proxy of a Deployment as its Pod would: with its arguments, environment and files, on free ports of
 * loopback.
 */
export async function startPod(
  t: TestContext,
  rendered: readonly Manifest[],
  deployment: string,
  upstream: string,
  options: {
    /** What else is in the cluster, for the names that the Pod uses. */
    readonly cluster?: readonly Manifest[]
    readonly secrets?: Secrets
    /** The name of the Pod. */
    readonly name?: string
  } = {},
) {
  const { cluster = rendered, secrets = {}, name: podName = 'focus-breaker-0' } = options
  const pod = at(podOf(one(rendered, 'Deployment', deployment)), 'spec')
  const container = named([...listAt(pod, 'containers'), ...listAt(pod, 'initContainers')], 'focus-breaker')
  assertHasResources(container)
  const variables = new Map<string, string>(Object.entries(SERVICE_LINKS))
  for (const source of listAt(container, 'envFrom')) {
    const configMap = one(rendered, 'ConfigMap', String(at(source, 'configMapRef', 'name')))
    for (const [name, value] of Object.entries(membersAt(configMap, 'data')))
      variables.set(name, String(value))
  }
  for (const [name, value] of variablesOf(container, secrets, podName)) variables.set(name, value)

  // focus-server, not the proxy itself.
  const url = new URL(variables.get('FOCUS_BREAKER_UPSTREAM_URL') ?? '')
  if (url.hostname !== '127.0.0.1') {
    const { container: led } = destinationOf(cluster, url.hostname, Number(url.port))
    assert.equal(led, 'focus-server')
  }
  const root = new Workshop(t, {})
  const folders = new Map<string, string>()
  const mounts = listAt(container, 'volumeMounts').map(mount => {
    const name = String(at(mount, 'name'))
    const folder = join(root.directory, name)
    mkdirSync(folder)
    folders.set(name, folder)
    return [String(at(mount, 'mountPath')), folder] as const
  })
  // The longest first, because one mount path can be a prefix of another.
  const examples: Examples = Object.fromEntries([
    [url.origin, upstream],
    ...mounts.toSorted(([a], [b]) => b.length - a.length),
  ])
  for (const volume of listAt(pod, 'volumes')) {
    const name = String(at(volume, 'name'))
    const folder = folders.get(name)
    if (folder === undefined) continue
    const configMap = at(volume, 'configMap', 'name')
    const secret = at(volume, 'secret')
    const files =
      secret !== undefined
        ? filesOf(secret, { 'focus-breaker': { token: `${POD_TOKEN}\n` }, ...secrets })
        : configMap === undefined
          ? {}
          : membersAt(one(rendered, 'ConfigMap', String(configMap)), 'data')
    for (const [file, text] of Object.entries(files)) writeFileSync(join(folder, file), String(text))
  }
  const workshop = new Workshop(t, examples)
  const real = (text: string) =>
    Object.entries(examples).reduce((left, [example, found]) => left.replaceAll(example, found), text)
  const env = Object.fromEntries([...variables].map(([name, value]) => [name, real(value)]))
  const script = commandOf(container)
  const checked = await workshop.run(`${script} --check-config`, env)
  assertEnded(checked, 0)
  assertFits(checked.output, pod, container)
  // No secret is shown.
  for (const text of [POD_TOKEN, ...Object.values(secrets).flatMap(Object.values)]) {
    assert.ok(!checked.output.includes(text))
  }

  const how = workshop.command(`exec ${script} --host 127.0.0.1 --port 0`)
  const program = await startProgram(t, {
    ...how,
    env: { ...how.env, ...env, ...FAST, FOCUS_BREAKER_SERVER_HEALTH_PORT: '0' },
    readyWhen: line => (/"msg":"listening"/.test(line) ? line : undefined),
  })
  const line: unknown = JSON.parse(program.ready)
  return { url: String(at(line, 'url')), healthUrl: String(at(line, 'health')), container, folders, program }
}

/** Asserts that a container has a memory request and limit. */
export function assertHasResources(container: unknown): void {
  for (const amount of [at(container, 'resources', 'requests'), at(container, 'resources', 'limits')]) {
    assert.match(String(at(amount, 'memory')), /^\d+Mi$/)
  }
}

/** The effective configuration agrees with the port, the probes, and the termination grace period. */
function assertFits(checked: string, pod: unknown, container: unknown): void {
  const server = at(parseYaml(checked.replaceAll(/^warning: .*$/gm, '')), 'server')
  assert.equal(at(server, 'port'), at(container, 'ports', 0, 'containerPort'))
  assert.equal(at(container, 'ports', 1, 'name'), 'health')
  assert.equal(at(server, 'healthPort'), at(container, 'ports', 1, 'containerPort'))
  const drainDelayMs = Number(at(server, 'drainDelayMs'))
  const neededMs = drainDelayMs + Number(at(server, 'drainTimeoutMs'))
  // The default of Kubernetes, if the Pod has no setting.
  const graceMs = Number(at(pod, 'terminationGracePeriodSeconds') ?? 30) * 1000
  assert.ok(graceMs >= neededMs + 5000, `${graceMs} ms of grace, ${neededMs} ms to drain`)
  const periodMs = Number(at(container, 'readinessProbe', 'periodSeconds')) * 1000
  if (drainDelayMs > 0) assert.ok(drainDelayMs > periodMs, `${drainDelayMs} ms, probed every ${periodMs} ms`)
  for (const probe of ['livenessProbe', 'readinessProbe']) {
    assert.equal(at(container, probe, 'failureThreshold'), 3)
  }
  assert.equal(at(container, 'resources', 'requests', 'memory'), '128Mi')
}

/** Asserts that the probes of a Pod succeed at the health listener. */
export async function assertProbesAnswer(url: string, container: unknown): Promise<void> {
  for (const [probe, expected] of [
    ['startupProbe', '/-/live'],
    ['livenessProbe', '/-/live'],
    ['readinessProbe', '/-/ready'],
  ] as const) {
    const get = at(container, probe, 'httpGet')
    if (probe === 'startupProbe' && get === undefined) continue
    assert.equal(at(get, 'path'), expected)
    // Not subject to TLS, client certificates and limits.
    assert.equal(at(get, 'port'), 'health')
    await until(async () => (await fetch(`${url}${at(get, 'path')}`)).ok, { what: `${probe} succeeds` })
  }
}

/** The variables of a container itself, with those from Secrets and from its Pod. */
export function variablesOf(
  container: unknown,
  secrets: Secrets,
  podName: string,
): ReadonlyMap<string, string> {
  const variables = listAt(container, 'env').map(variable => {
    const from = at(variable, 'valueFrom')
    const reference = at(from, 'secretKeyRef')
    if (reference !== undefined) {
      const value = secrets[String(at(reference, 'name'))]?.[String(at(reference, 'key'))]
      assert.ok(value !== undefined, `no ${at(reference, 'key')} in the Secret ${at(reference, 'name')}`)
      return [String(at(variable, 'name')), value] as const
    }
    if (from !== undefined) assert.equal(at(from, 'fieldRef', 'fieldPath'), 'metadata.name')
    return [
      String(at(variable, 'name')),
      from === undefined ? String(at(variable, 'value')) : podName,
    ] as const
  })
  return new Map(variables)
}

/** The files of a volume of a Secret. */
function filesOf(volume: unknown, secrets: Secrets): Readonly<Record<string, string>> {
  const name = String(at(volume, 'secretName'))
  const all = secrets[name]
  assert.ok(all !== undefined, `no Secret ${name}`)
  if (at(volume, 'items') === undefined) return all
  const items = listAt(volume, 'items').map(item => {
    const text = all[String(at(item, 'key'))]
    assert.ok(text !== undefined, `no ${at(item, 'key')} in the Secret ${name}`)
    return [String(at(item, 'path')), text] as const
  })
  return Object.fromEntries(items)
}
