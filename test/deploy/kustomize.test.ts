import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { stringify } from 'yaml'
import { type ChartOptions, writeChart } from '../support/focus-server-chart.js'
import { at, repositoryRoot, requireOrSkip, testTools } from '../support/harness.js'
import {
  type Destination,
  destinationOf,
  INSTANCE,
  listAt,
  type Manifest,
  Manifests,
  membersAt,
  named,
  nameOf,
  notRestricted,
  one,
  parse,
  podOf,
  routeOf,
  selectedBy,
  succeeded,
  typeErrors,
} from '../support/manifests.js'
import { Page } from '../support/recipe-page.js'

const BASE = 'deploy/kubernetes'
const COMPONENTS = ['admin-token', 'history', 'monitoring', 'network-policy', 'replicas'] as const
const PROXY: Destination = { deployment: 'focus-breaker', container: 'focus-breaker', port: 8080 }
const SIDECAR: Destination = { deployment: 'focus-server', container: 'focus-breaker', port: 8080 }
const SERVER: Destination = { deployment: 'focus-server', container: 'focus-server', port: 5000 }

/** The chart before and after an upgrade that changes everything that the deployment methods depend on. */
const BEFORE: ChartOptions = { version: '1.0.0', graceSeconds: 120 }
const AFTER: ChartOptions = {
  version: '2.0.0',
  labels: { 'app.kubernetes.io/name': 'focus-server', [INSTANCE]: 'lab' },
  targetPort: 'http',
  hasInitContainer: true,
  graceSeconds: 20,
  namespace: 'lab',
}

/** A user's kustomization: an overlay with components, as a separate installation if it has a name. */
function own(options: {
  readonly overlay: 'base' | 'overlays/httproute' | 'overlays/ingress'
  readonly components?: readonly string[]
  readonly instance?: string
}): Readonly<Record<string, unknown>> {
  const { overlay, components = [], instance } = options
  return {
    resources: [`../${BASE}/${overlay}`, 'resources.yaml'],
    components: components.map(name => `../${BASE}/components/${name}`),
    ...(instance !== undefined && {
      nameSuffix: `-${instance}`,
      labels: [{ pairs: { [INSTANCE]: instance }, includeSelectors: true }],
    }),
  }
}

/** What the chart renders, with and without the post-renderer. */
function chartOf(
  manifests: Manifests,
  options: ChartOptions,
  ...args: readonly string[]
): readonly Manifest[] {
  writeChart(manifests, 'chart', options)
  return parse(succeeded(manifests.helm('template', 'lab', 'chart', ...args)))
}

function postRendered(manifests: Manifests, options: ChartOptions, component?: string): readonly Manifest[] {
  const args = component === undefined ? [] : ['--post-renderer-args', component]
  return chartOf(manifests, options, '--post-renderer', 'focus-breaker', ...args)
}

function withPlugin(t: TestContext): Manifests {
  const manifests = new Manifests(t)
  succeeded(manifests.helm('plugin', 'install', `${BASE}/helm`))
  return manifests
}

test('every document has only fields that Kubernetes knows, in every combination', t => {
  if (!requireOrSkip(t, 'kubectl', 'helm', 'kubernetesTypes')) return
  const manifests = withPlugin(t)
  const documents = [
    ...manifests.render(`${BASE}/overlays/httproute`),
    ...manifests.renderOwn(own({ overlay: 'overlays/ingress', components: COMPONENTS.slice(0, 4) }), []),
    ...manifests.renderOwn(own({ overlay: 'base', components: ['replicas'], instance: 'b' }), []),
    ...manifests.renderOwn(own({ overlay: 'base', components: ['valkey'], instance: 'c' }), []),
    ...postRendered(manifests, BEFORE),
    ...postRendered(manifests, BEFORE, 'overlays/sidecar'),
    ...parse(new Page('kubernetes-init-container.md').take('job.yaml')),
  ]
  const kinds = new Set(documents.map(({ kind }) => String(kind)))
  assert.deepEqual([...kinds].toSorted(), [
    ...['ConfigMap', 'Deployment', 'HTTPRoute', 'Ingress', 'Job', 'NetworkPolicy', 'PersistentVolumeClaim'],
    ...['Pod', 'PodDisruptionBudget', 'PrometheusRule', 'Service', 'ServiceAccount', 'ServiceMonitor'],
  ])
  assert.equal(typeErrors(t, documents), '')

  // A misspelt field would be found in each kind that has fields of its own.
  const misspelt = [
    ['Deployment', (text: string) => text.replace('"failureThreshold"', '"failureTreshold"')],
    ['HTTPRoute', (text: string) => text.replace('"backendRefs"', '"backendsRefs"')],
    ['Job', (text: string) => text.replace('"backoffLimit"', '"backofLimit"')],
    ['Ingress', (text: string) => text.replace('"pathType"', '"pathtype"')],
    ['NetworkPolicy', (text: string) => text.replace('"policyTypes"', '"policyType"')],
    ['PersistentVolumeClaim', (text: string) => text.replace('"accessModes"', '"accessMode"')],
    ['PodDisruptionBudget', (text: string) => text.replace('"maxUnavailable"', '"maxUnavaliable"')],
    ['PrometheusRule', (text: string) => text.replace('"annotations"', '"annotation"')],
    ['Service', (text: string) => text.replace('"targetPort"', '"targetport"')],
    ['ServiceAccount', (text: string) => text.replace('"automountServiceAccountToken"', '"automount"')],
    ['ServiceMonitor', (text: string) => text.replace('"interval"', '"intervall"')],
  ] as const
  const wrong = misspelt.map(([kind, spoil]) => {
    const text = JSON.stringify(documents.find(document => document.kind === kind))
    assert.notEqual(spoil(text), text, kind)
    const value: Manifest = JSON.parse(spoil(text))
    return value
  })
  const errors = typeErrors(t, wrong)
  for (const [index, [kind]] of misspelt.entries()) {
    assert.match(errors, new RegExp(`^${index}-${kind}\\.ts\\(.*error TS`, 'm'))
  }
})

for (const overlay of ['base', 'overlays/httproute', 'overlays/ingress'] as const) {
  test(`two installations of ${overlay} in one namespace select only their own Pods`, t => {
    if (!requireOrSkip(t, 'kubectl')) return
    const manifests = new Manifests(t)
    // A Prometheus in the same namespace, which the label of an installation must not affect.
    const components = ['admin-token', 'monitoring', 'network-policy', 'valkey']
    const chart = new Map<string, readonly Manifest[]>()
    for (const instance of ['a', 'b']) {
      chart.set(
        instance,
        manifests.renderOwn(own({ overlay, components, instance }), serverNamed('focus-server')),
      )
    }
    const all = [...chart.values()].flat()
    for (const [instance, installation] of chart) {
      for (const { what, of, labels } of selectorsOf(installation)) {
        const deployment = one(installation, 'Deployment', of)
        assert.deepEqual(selectedBy(all, labels), [deployment], `${what} of ${of}`)
      }
      // No other selector has got the label of the installation.
      const policy = one(installation, 'NetworkPolicy', `focus-breaker-${instance}`)
      assert.doesNotMatch(JSON.stringify(at(policy, 'spec', 'ingress')), /instance/)
      // Only the replicas of this installation connect to its Valkey.
      const valkey = one(installation, 'NetworkPolicy', `focus-breaker-valkey-${instance}`)
      const [rule, ...others] = listAt(valkey, 'spec', 'ingress')
      assert.deepEqual(others, [])
      assert.deepEqual(
        listAt(rule, 'from').map(from => selectedBy(all, membersAt(from, 'podSelector', 'matchLabels'))),
        [[one(installation, 'Deployment', `focus-breaker-${instance}`)]],
      )
      // A ServiceMonitor selects by the labels of the Service.
      const monitor = one(installation, 'ServiceMonitor', `focus-breaker-${instance}`)
      const monitored = all.filter(
        manifest =>
          manifest.kind === 'Service' &&
          Object.entries(membersAt(monitor, 'spec', 'selector', 'matchLabels')).every(
            ([key, value]) => at(manifest, 'metadata', 'labels', key) === value,
          ),
      )
      assert.deepEqual(monitored.map(nameOf), [`focus-breaker-${instance}`])
      const endpoint = at(monitor, 'spec', 'endpoints', 0)
      assert.deepEqual(destinationOf(installation, `focus-breaker-${instance}`, at(endpoint, 'port')), {
        deployment: `focus-breaker-${instance}`,
        container: 'focus-breaker',
        port: 8081,
      })
      if (overlay === 'base') continue
      assert.equal(
        routeOf(installation, '/focus-server/configure').destination.deployment,
        `focus-breaker-${instance}`,
      )
    }
  })
}

/**
 * Every selector of an installation, except that of a ServiceMonitor, with the name of the Deployment that it concerns.
 */
function selectorsOf(manifests: readonly Manifest[]): readonly {
  readonly what: string
  readonly of: string
  readonly labels: Readonly<Record<string, unknown>>
}[] {
  const found = manifests.flatMap(manifest => {
    const spec = at(manifest, 'spec')
    const selectors: Readonly<Record<string, readonly unknown[]>> = {
      Service: [at(spec, 'selector')],
      Deployment: [
        at(spec, 'selector', 'matchLabels'),
        ...listAt(podOf(manifest), 'spec', 'topologySpreadConstraints').map(constraint =>
          at(constraint, 'labelSelector', 'matchLabels'),
        ),
      ],
      PodDisruptionBudget: [at(spec, 'selector', 'matchLabels')],
      NetworkPolicy: [at(spec, 'podSelector', 'matchLabels')],
    }
    if (nameOf(manifest).startsWith('focus-server')) return []
    return (selectors[String(manifest.kind)] ?? []).map(labels => ({
      what: String(manifest.kind),
      of: nameOf(manifest),
      labels: membersAt(labels),
    }))
  })
  assert.deepEqual(
    found.map(({ what, of }) => `${what}${of.includes('valkey') ? ' of Valkey' : ''}`).toSorted(),
    [
      'Deployment',
      'Deployment',
      'Deployment of Valkey',
      'NetworkPolicy',
      'NetworkPolicy of Valkey',
      'PodDisruptionBudget',
      'Service',
      'Service of Valkey',
    ],
  )
  return found
}

/** focus-server itself, as manifests, which a user's kustomization would not contain. */
function serverNamed(name: string): readonly Manifest[] {
  const metadata = { name, labels: { app: name } }
  const container = { name: 'focus-server', image: 'focus-server:1', ports: [{ containerPort: 5000 }] }
  return [
    {
      apiVersion: 'apps/v1',
      kind: 'Deployment',
      metadata,
      spec: {
        selector: { matchLabels: { app: name } },
        template: { metadata: { labels: { app: name } }, spec: { containers: [container] } },
      },
    },
    {
      apiVersion: 'v1',
      kind: 'Service',
      metadata,
      spec: { selector: { app: name }, ports: [{ port: 5000 }] },
    },
  ]
}

test('the Pods of the proxy pass Pod Security restricted, and have no Kubernetes token', t => {
  if (!requireOrSkip(t, 'kubectl')) return
  const manifests = new Manifests(t)
  for (const components of [[], COMPONENTS.slice(0, 4), ['replicas'], ['valkey']]) {
    const rendered = manifests.renderOwn(own({ overlay: 'base', components }), [])
    for (const deployment of rendered.filter(({ kind }) => kind === 'Deployment')) {
      const own = at(podOf(deployment), 'spec')
      assert.deepEqual(notRestricted(own), [])
      assert.equal(at(own, 'automountServiceAccountToken'), false)
      assert.equal(at(own, 'containers', 0, 'securityContext', 'readOnlyRootFilesystem'), true)
    }
    const pod = at(podOf(one(rendered, 'Deployment')), 'spec')
    const account = one(rendered, 'ServiceAccount', String(at(pod, 'serviceAccountName')))
    assert.equal(account.automountServiceAccountToken, false)
  }
})

test('what Pod Security restricted requires is checked field by field', t => {
  if (!requireOrSkip(t, 'kubectl')) return
  const manifests = new Manifests(t)
  const pod = at(podOf(one(manifests.render(`${BASE}/base`), 'Deployment')), 'spec')
  assert.deepEqual(notRestricted(pod), [])
  const changed = (change: (pod: Record<string, unknown>, container: Record<string, unknown>) => void) => {
    const copy: unknown = JSON.parse(JSON.stringify(pod))
    assert.ok(isRecord(copy))
    const container = listAt(copy, 'containers')[0]
    assert.ok(isRecord(container))
    change(copy, container)
    return notRestricted(copy)
  }
  const secure = (container: Record<string, unknown>, own: object) => {
    container.securityContext = { ...membersAt(container, 'securityContext'), ...own }
  }
  const rows: readonly [string, readonly string[]][] = [
    ['the host’s network', changed(copy => Object.assign(copy, { hostNetwork: true }))],
    ['the host’s processes', changed(copy => Object.assign(copy, { hostPID: true }))],
    [
      'a folder of the host',
      changed(copy => Object.assign(copy, { volumes: [{ name: 'x', hostPath: {} }] })),
    ],
    ['no user', changed(copy => Object.assign(copy, { securityContext: {} }))],
    ['root', changed((_, container) => secure(container, { runAsUser: 0 }))],
    [
      'a container that may run as root',
      changed((_, container) => secure(container, { runAsNonRoot: false })),
    ],
    ['privileged', changed((_, container) => secure(container, { privileged: true }))],
    ['escalation', changed((_, container) => secure(container, { allowPrivilegeEscalation: true }))],
    ['capabilities', changed((_, container) => secure(container, { capabilities: { drop: ['NET_RAW'] } }))],
    [
      'a capability',
      changed((_, container) => secure(container, { capabilities: { drop: ['ALL'], add: ['SYS_TIME'] } })),
    ],
    ['no seccomp', changed((_, container) => secure(container, { seccompProfile: { type: 'Unconfined' } }))],
    [
      'a port of the host',
      changed((_, container) => Object.assign(container, { ports: [{ hostPort: 80 }] })),
    ],
    ['another container', changed(copy => Object.assign(copy, { initContainers: [{ name: 'other' }] }))],
  ]
  for (const [what, wrong] of rows) assert.notDeepEqual(wrong, [], what)
})

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

test('a node drain can proceed with one replica, and leaves one of two running', t => {
  if (!requireOrSkip(t, 'kubectl')) return
  const manifests = new Manifests(t)
  for (const [components, replicas] of [
    [[], 1],
    [['history'], 1],
    [['replicas'], 2],
    [['valkey'], 2],
  ] as const) {
    const rendered = manifests.renderOwn(own({ overlay: 'base', components }), [])
    const deployment = one(rendered, 'Deployment')
    assert.equal(at(deployment, 'spec', 'replicas'), replicas)
    const budget = at(one(rendered, 'PodDisruptionBudget'), 'spec')
    assert.equal(at(budget, 'minAvailable'), undefined)
    const mayGo = Number(at(budget, 'maxUnavailable'))
    assert.ok(mayGo >= 1, 'a drain would wait forever')
    assert.ok(replicas === 1 || replicas - mayGo >= 1, 'a drain would end all replicas')
    // A Pod that never becomes ready would also block the drain.
    assert.equal(at(budget, 'unhealthyPodEvictionPolicy'), 'AlwaysAllow')
    assert.deepEqual(selectedBy(rendered, membersAt(budget, 'selector', 'matchLabels')), [deployment])
  }
})

test('a changed option replaces the Pod, and a changed override does not', t => {
  if (!requireOrSkip(t, 'kubectl')) return
  const manifests = new Manifests(t)
  const render = () => manifests.renderOwn(own({ overlay: 'base', components: ['replicas'] }), [])
  const templateOf = (rendered: readonly Manifest[]) => JSON.stringify(podOf(one(rendered, 'Deployment')))
  const before = render()
  assert.equal(templateOf(render()), templateOf(before))
  const file = `${BASE}/base/focus-breaker.yaml`
  const text = readFileSync(join(manifests.directory, file), 'utf8')
  manifests.write(file, text.replace('drainTimeoutMs: 15000', 'drainTimeoutMs: 14000'))
  assert.notEqual(templateOf(render()), templateOf(before))
  manifests.write(file, text)
  const merged = manifests.renderOwn(
    {
      ...own({ overlay: 'base', components: ['replicas'] }),
      configMapGenerator: [
        { name: 'focus-breaker-env', behavior: 'merge', literals: ['FOCUS_BREAKER_LOG_LEVEL=warn'] },
      ],
    },
    [],
  )
  assert.notEqual(templateOf(merged), templateOf(before))
  // The override is written to a ConfigMap whose name does not change and whose content survives another apply.
  const override = one(before, 'ConfigMap', 'focus-breaker-override')
  assert.equal(override.data, undefined)
  const volumes = listAt(podOf(one(before, 'Deployment')), 'spec', 'volumes')
  assert.equal(at(named(volumes, 'override'), 'configMap', 'name'), 'focus-breaker-override')
})

test('the history has a volume that the proxy can write, and never two writers', t => {
  if (!requireOrSkip(t, 'kubectl')) return
  const manifests = new Manifests(t)
  const rendered = manifests.renderOwn(own({ overlay: 'base', components: ['history'], instance: 'b' }), [])
  const deployment = one(rendered, 'Deployment', 'focus-breaker-b')
  assert.deepEqual(at(deployment, 'spec', 'strategy'), { type: 'Recreate' })
  assert.equal(at(deployment, 'spec', 'replicas'), 1)
  const pod = at(podOf(deployment), 'spec')
  assert.equal(at(pod, 'securityContext', 'fsGroup'), 1000)
  const claim = at(named(listAt(pod, 'volumes'), 'history'), 'persistentVolumeClaim', 'claimName')
  // Helm does not delete it with the rest, as in an upgrade that omits the post-renderer.
  const volume = one(rendered, 'PersistentVolumeClaim', String(claim))
  assert.equal(at(volume, 'metadata', 'annotations', 'helm.sh/resource-policy'), 'keep')
  const mount = named(listAt(pod, 'containers', 0, 'volumeMounts'), 'history')
  const environment = rendered.find(
    ({ kind, data }) => kind === 'ConfigMap' && at(data, 'FOCUS_BREAKER_HISTORY_FILE') !== undefined,
  )
  assert.ok(
    String(at(environment, 'data', 'FOCUS_BREAKER_HISTORY_FILE')).startsWith(`${at(mount, 'mountPath')}/`),
  )
  assert.equal(at(mount, 'readOnly'), undefined)
})

test('history and replicas together fail to render, in either order', t => {
  if (!requireOrSkip(t, 'kubectl')) return
  const manifests = new Manifests(t)
  for (const components of [
    ['history', 'replicas'],
    ['replicas', 'history'],
    ['history', 'valkey'],
    ['valkey', 'history'],
  ]) {
    const both = { ...own({ overlay: 'base', components }), resources: [`../${BASE}/base`] }
    manifests.write('both/kustomization.yaml', stringify(both))
    const { status, stderr } = manifests.run(testTools.kubectl, ['kustomize', 'both'])
    assert.notEqual(status, 0, components.join())
    assert.match(stderr, /\btest\b.*failed|test operation does not apply/)
  }
})

test('replicas with Valkey are spread over nodes, and Valkey never runs twice and keeps nothing on disk', t => {
  if (!requireOrSkip(t, 'kubectl')) return
  const manifests = new Manifests(t)
  for (const overlay of ['base', 'overlays/httproute', 'overlays/ingress'] as const) {
    const rendered = manifests.renderOwn(
      own({ overlay, components: ['valkey'] }),
      serverNamed('focus-server'),
    )
    const pod = at(podOf(one(rendered, 'Deployment')), 'spec')
    assert.equal(at(pod, 'topologySpreadConstraints', 0, 'topologyKey'), 'kubernetes.io/hostname')
    // The URL is read from the Secret, and the Pod has no separate password for Valkey.
    const volume = at(named(listAt(pod, 'volumes'), 'valkey'), 'secret')
    assert.deepEqual(volume, { secretName: 'focus-breaker-valkey', items: [{ key: 'url', path: 'url' }] })
    const mount = named(listAt(pod, 'containers', 0, 'volumeMounts'), 'valkey')
    assert.equal(at(mount, 'readOnly'), true)
    const environment = rendered.find(
      ({ kind, data }) => kind === 'ConfigMap' && at(data, 'FOCUS_BREAKER_REPLICAS_URL_FILE') !== undefined,
    )
    assert.equal(at(environment, 'data', 'FOCUS_BREAKER_REPLICAS_URL_FILE'), `${at(mount, 'mountPath')}/url`)
    const name = named(listAt(pod, 'containers', 0, 'env'), 'FOCUS_BREAKER_REPLICAS_NAME')
    assert.equal(at(name, 'valueFrom', 'fieldRef', 'fieldPath'), 'metadata.name')

    const valkey = one(rendered, 'Deployment', 'focus-breaker-valkey')
    assert.deepEqual(
      [at(valkey, 'spec', 'replicas'), at(valkey, 'spec', 'strategy', 'type')],
      [1, 'Recreate'],
    )
    const container = at(podOf(valkey), 'spec', 'containers', 0)
    assert.equal(at(podOf(valkey), 'spec', 'volumes'), undefined)
    assert.deepEqual(destinationOf(rendered, 'focus-breaker-valkey', 'valkey'), {
      ...{ deployment: 'focus-breaker-valkey', container: 'valkey', port: 6379 },
    })
    for (const probe of ['livenessProbe', 'readinessProbe']) {
      assert.deepEqual(at(container, probe, 'tcpSocket'), { port: 'valkey' })
    }
    // More than the data limit of Valkey plus its overhead.
    const args = listAt(container, 'args')
    const megabytes = (text: unknown) => Number.parseInt(String(text), 10)
    const limit = megabytes(at(container, 'resources', 'limits', 'memory'))
    assert.ok(limit >= 2 * megabytes(args[args.indexOf('--maxmemory') + 1]))
    assert.equal(args[args.indexOf('--maxmemory-policy') + 1], 'noeviction')
    const policy = at(one(rendered, 'NetworkPolicy', 'focus-breaker-valkey'), 'spec')
    assert.deepEqual(at(policy, 'policyTypes'), ['Ingress', 'Egress'])
    assert.equal(at(policy, 'egress'), undefined)
  }
})

test('take-over-service with Valkey routes the Service focus-server to both replicas', t => {
  if (!requireOrSkip(t, 'kubectl', 'helm')) return
  const manifests = withPlugin(t)
  const site = {
    kind: 'Component',
    apiVersion: 'kustomize.config.k8s.io/v1alpha1',
    components: [`../${BASE}/overlays/take-over-service`, `../${BASE}/components/valkey`],
  }
  manifests.write('site/kustomization.yaml', stringify(site))
  for (const options of [BEFORE, AFTER]) {
    const rendered = postRendered(manifests, options, '../../site')
    assert.deepEqual(destinationOf(rendered, 'focus-server', 5000), PROXY)
    assert.equal(at(one(rendered, 'Deployment'), 'spec', 'replicas'), 2)
    assert.deepEqual(upstreamOf(rendered), SERVER)
    one(rendered, 'Deployment', 'focus-breaker-valkey')
  }
})

test('the alerts and the dashboard for the Prometheus operator are those of deploy/', t => {
  if (!requireOrSkip(t, 'kubectl')) return
  const manifests = new Manifests(t)
  const rendered = manifests.renderOwn(own({ overlay: 'base', components: ['monitoring'] }), [])
  const file = (name: string) => readFileSync(join(repositoryRoot, 'deploy', name), 'utf8')
  const [alerts] = parse(file('prometheus/alerts.yml'))
  assert.deepEqual(one(rendered, 'PrometheusRule').spec, alerts)
  const dashboard = one(rendered, 'ConfigMap', 'focus-breaker-dashboard')
  assert.equal(at(dashboard, 'metadata', 'labels', 'grafana_dashboard'), '1')
  assert.equal(at(dashboard, 'data', 'dashboard.json'), file('grafana/dashboard.json'))
  // The job is named after the Service; alerts use that name.
  const monitor = one(rendered, 'ServiceMonitor')
  assert.equal(at(monitor, 'spec', 'jobLabel'), undefined)
  for (const job of JSON.stringify(alerts).matchAll(/job=~\\"([^"\\]+)\\"/g)) {
    assert.match('focus-breaker', new RegExp(`^${job[1]}$`))
  }
  assert.equal(at(monitor, 'spec', 'endpoints', 0, 'path'), '/-/metrics')
})

test('a NetworkPolicy opens the main port to gateways and testers, and the health port to Prometheus', t => {
  if (!requireOrSkip(t, 'kubectl')) return
  const manifests = new Manifests(t)
  const rendered = manifests.renderOwn(own({ overlay: 'base', components: ['network-policy'] }), [])
  const spec = at(one(rendered, 'NetworkPolicy'), 'spec')
  assert.deepEqual(at(spec, 'policyTypes'), ['Ingress'])
  const ports = listAt(podOf(one(rendered, 'Deployment')), 'spec', 'containers', 0, 'ports')
  const rules = listAt(spec, 'ingress')
  assert.deepEqual(
    rules.map(rule => listAt(rule, 'ports').map(port => at(port, 'port'))),
    [['http'], ['health']],
  )
  for (const rule of rules) {
    // A rule without `from` would admit every source, and one without `ports` every port.
    assert.notEqual(listAt(rule, 'from').length, 0)
    for (const port of listAt(rule, 'ports')) named(ports, String(at(port, 'port')))
    for (const from of listAt(rule, 'from')) {
      assert.notDeepEqual(at(from, 'namespaceSelector'), {})
      // `labels` with `includeSelectors` would add the installation to them.
      assert.equal(at(from, 'podSelector', 'matchLabels'), undefined)
    }
  }
})

for (const overlay of ['overlays/httproute', 'overlays/ingress'] as const) {
  test(`${overlay}: the proxy gets every request, and from outside only those of its own routes that clients need`, t => {
    if (!requireOrSkip(t, 'kubectl')) return
    const manifests = new Manifests(t)
    const rendered = manifests.renderOwn(own({ overlay }), serverNamed('focus-server'))
    for (const path of [
      ...['/configure', '/configure/', '/./configure', '/%63onfigure', '/live_metadata', '', '/', '/-x'],
      ...['/-/fiber', '/-/status', '/-/wait', '/-/runs/4711'],
    ]) {
      const route = routeOf(rendered, `/focus-server${path}`)
      assert.deepEqual(route, { destination: PROXY, path: `/focus-server${path}` })
    }
    for (const path of [
      ...['', '/', '/metrics', '/override', '/reload', '/clients', '/outages', '/live', '/decision'],
      ...['/statusx', '/status/', '/fiber/x', '/page/page.js'],
    ]) {
      const route = routeOf(rendered, `/focus-server/-${path}`)
      assert.deepEqual(route, { destination: SERVER, path: `/focus-server/-${path}` })
    }
    assert.deepEqual(upstreamOf(rendered), SERVER)
  })
}

/** Where the proxy of these documents sends its requests: to a Service, or to its own Pod. */
function upstreamOf(manifests: readonly Manifest[]): Destination {
  const environment = manifests.find(
    ({ kind, data }) => kind === 'ConfigMap' && at(data, 'FOCUS_BREAKER_UPSTREAM_URL') !== undefined,
  )
  const url = new URL(String(at(environment, 'data', 'FOCUS_BREAKER_UPSTREAM_URL')))
  return destinationOf(manifests, url.hostname, Number(url.port))
}

/** Charts that name the target port, number it, or omit it. */
const TARGET_PORTS: readonly ChartOptions[] = [{}, { targetPort: 5000 }, { targetPort: 'http' }]

test('take-over-service: the Service focus-server leads to the proxy, and the proxy to focus-server', t => {
  if (!requireOrSkip(t, 'kubectl', 'helm')) return
  const manifests = withPlugin(t)
  for (const options of [...TARGET_PORTS.map(ports => ({ ...BEFORE, ...ports })), AFTER]) {
    const plain = chartOf(manifests, options)
    assert.deepEqual(destinationOf(plain, 'focus-server', 5000), SERVER)
    const rendered = postRendered(manifests, options)
    for (const port of [5000, 'http']) {
      assert.deepEqual(destinationOf(rendered, 'focus-server', port), PROXY)
      assert.deepEqual(destinationOf(rendered, 'focus-server-direct', port), SERVER)
    }
    // No loop.
    assert.deepEqual(upstreamOf(rendered), SERVER)
    assert.deepEqual(routeOf(rendered, '/focus-server/configure'), { destination: PROXY, path: '/configure' })
    // Nothing else in the chart changes or gets lost, not even the hook.
    for (const manifest of plain) {
      const same = one(rendered, String(manifest.kind), nameOf(manifest))
      const withoutSelector = (service: Manifest) => ({
        ...service,
        spec: { ...membersAt(service, 'spec'), selector: null, ports: null },
      })
      if (manifest.kind === 'Service') assert.deepEqual(withoutSelector(same), withoutSelector(manifest))
      else assert.deepEqual(same, manifest)
    }
  }
})

test('take-over-service: the proxy finds focus-server at whatever port its Service has', t => {
  if (!requireOrSkip(t, 'kubectl', 'helm')) return
  const manifests = withPlugin(t)
  for (const component of ['overlays/take-over-service/prepare', 'overlays/take-over-service']) {
    for (const options of [BEFORE, AFTER]) {
      const rendered = postRendered(manifests, { ...options, port: 8000, targetPort: 5000 }, component)
      assert.deepEqual(upstreamOf(rendered), SERVER)
      const isTaken = component === 'overlays/take-over-service'
      assert.deepEqual(destinationOf(rendered, 'focus-server', 8000), isTaken ? PROXY : SERVER)
    }
  }
})

test('take-over-service: a Service with a second port, which the proxy does not have, fails the upgrade', t => {
  if (!requireOrSkip(t, 'kubectl', 'helm')) return
  const manifests = withPlugin(t)
  for (const options of [BEFORE, AFTER]) {
    writeChart(manifests, 'chart', { ...options, ports: [{ name: 'metrics', port: 9090 }] })
    const chart = succeeded(manifests.helm('template', 'lab', 'chart'))
    const script = `${BASE}/helm/post-render.sh`
    const { status, stderr } = manifests.run(script, ['overlays/take-over-service'], chart)
    assert.notEqual(status, 0)
    assert.match(stderr, /testing value \/spec\/ports\/-1 failed/)
    // The first port leads to the sidecar, and the others lead where they did.
    const rendered = parse(succeeded(manifests.run(script, ['overlays/sidecar'], chart)))
    assert.deepEqual(destinationOf(rendered, 'focus-server', 'http'), SIDECAR)
    const other = listAt(one(rendered, 'Service', 'focus-server'), 'spec', 'ports')[1]
    assert.deepEqual(other, { name: 'metrics', port: 9090 })
  }
})

test('take-over-service/prepare: the proxy and the second Service exist, and no client is routed to them', t => {
  if (!requireOrSkip(t, 'kubectl', 'helm')) return
  const manifests = withPlugin(t)
  const plain = chartOf(manifests, BEFORE)
  const rendered = postRendered(manifests, BEFORE, 'overlays/take-over-service/prepare')
  assert.deepEqual(destinationOf(rendered, 'focus-server', 5000), SERVER)
  assert.deepEqual(upstreamOf(rendered), SERVER)
  for (const manifest of plain) {
    assert.deepEqual(one(rendered, String(manifest.kind), nameOf(manifest)), manifest)
  }
  // The next step changes only the Service, so nothing has to start during the takeover.
  const taken = postRendered(manifests, BEFORE)
  const changed = taken.filter(
    manifest =>
      JSON.stringify(manifest) !== JSON.stringify(one(rendered, String(manifest.kind), nameOf(manifest))),
  )
  assert.deepEqual(
    changed.map(manifest => [manifest.kind, nameOf(manifest)]),
    [['Service', 'focus-server']],
  )
})

test('the sidecar is native, starts first, and leaves focus-server’s Pod unchanged', t => {
  if (!requireOrSkip(t, 'kubectl', 'helm')) return
  const manifests = withPlugin(t)
  for (const options of [...TARGET_PORTS.map(ports => ({ ...BEFORE, ...ports })), AFTER]) {
    const plain = chartOf(manifests, options)
    const rendered = postRendered(manifests, options, 'overlays/sidecar')
    assert.deepEqual(destinationOf(rendered, 'focus-server', 5000), SIDECAR)
    assert.deepEqual(destinationOf(rendered, 'focus-breaker', 8080), SIDECAR)
    assert.deepEqual(destinationOf(rendered, 'focus-breaker', 'health'), { ...SIDECAR, port: 8081 })
    assert.deepEqual(routeOf(rendered, '/focus-server/configure'), {
      destination: SIDECAR,
      path: '/configure',
    })
    assertSidecarBeside(one(plain, 'Deployment', 'focus-server'), one(rendered, 'Deployment', 'focus-server'))
  }
  // With monitoring, its own Service is scraped.
  const site = {
    kind: 'Component',
    apiVersion: 'kustomize.config.k8s.io/v1alpha1',
    components: [`../${BASE}/overlays/sidecar`, `../${BASE}/components/monitoring`],
  }
  manifests.write('site/kustomization.yaml', stringify(site))
  const monitored = postRendered(manifests, BEFORE, '../../site')
  const monitor = one(monitored, 'ServiceMonitor')
  const selected = monitored.filter(
    manifest =>
      manifest.kind === 'Service' &&
      Object.entries(membersAt(monitor, 'spec', 'selector', 'matchLabels')).every(
        ([key, value]) => at(manifest, 'metadata', 'labels', key) === value,
      ),
  )
  assert.deepEqual(selected.map(nameOf), ['focus-breaker'])
})

test('kubectl patch adds the same sidecar to a Deployment that Helm has installed', t => {
  if (!requireOrSkip(t, 'kubectl', 'helm')) return
  const manifests = new Manifests(t)
  for (const options of [BEFORE, AFTER]) {
    const plain = chartOf(manifests, options)
    const patch = (kind: string, ...how: readonly string[]) => {
      manifests.write('live.json', JSON.stringify(one(plain, kind, 'focus-server')))
      const [patched] = parse(
        manifests.kubectl(['patch', '--local', '-f', 'live.json', '-o', 'json', ...how]),
      )
      assert.ok(patched !== undefined)
      return patched
    }
    const folder = `${BASE}/overlays/sidecar`
    const deployment = patch('Deployment', '--patch-file', `${folder}/deployment.yaml`)
    assertSidecarBeside(one(plain, 'Deployment', 'focus-server'), deployment)
    const service = patch('Service', '--type', 'json', '--patch-file', `${folder}/focus-server-service.yaml`)
    assert.deepEqual(destinationOf([deployment, service], 'focus-server', 5000), SIDECAR)
  }
})

function assertSidecarBeside(plain: Manifest, patched: Manifest): void {
  const [before, after] = [podOf(plain), podOf(patched)]
  const [pod, patchedPod] = [at(before, 'spec'), at(after, 'spec')]
  assert.deepEqual(at(patchedPod, 'containers'), at(pod, 'containers'))
  const others = listAt(patchedPod, 'initContainers').filter(one => at(one, 'name') !== 'focus-breaker')
  assert.deepEqual(others, listAt(pod, 'initContainers'))
  // Never lowered, and not set where Kubernetes' default is long enough.
  assert.deepEqual(at(patchedPod, 'terminationGracePeriodSeconds'), at(pod, 'terminationGracePeriodSeconds'))
  assert.deepEqual(at(patched, 'spec', 'selector'), at(plain, 'spec', 'selector'))
  assert.deepEqual(at(after, 'metadata', 'labels'), at(before, 'metadata', 'labels'))
  assert.deepEqual(at(after, 'metadata', 'annotations'), {
    ...membersAt(before, 'metadata', 'annotations'),
    'kubectl.kubernetes.io/default-container': at(pod, 'containers', 0, 'name'),
  })
  const sidecar = named(listAt(patchedPod, 'initContainers'), 'focus-breaker')
  assert.equal(at(sidecar, 'restartPolicy'), 'Always')
  // focus-server starts only when the proxy listens. The probe checks only the process, so a missing focus-server
  // cannot prevent that.
  assert.deepEqual(at(sidecar, 'startupProbe', 'httpGet'), { path: '/-/live', port: 'health' })
  assert.deepEqual(notRestricted({ initContainers: [sidecar] }), [])
  // It stops when the Pod starts to stop.
  assert.deepEqual(listAt(sidecar, 'lifecycle', 'preStop', 'exec', 'command').slice(1), [
    '-e',
    'process.kill(1, "SIGTERM")',
  ])
}

test('both methods that change the chart’s manifests survive an upgrade, and end without the post-renderer', t => {
  if (!requireOrSkip(t, 'kubectl', 'helm')) return
  const manifests = withPlugin(t)
  for (const [component, expected] of [
    ['overlays/take-over-service', PROXY],
    ['overlays/sidecar', SIDECAR],
  ] as const) {
    for (const options of [BEFORE, AFTER, BEFORE]) {
      const rendered = postRendered(manifests, options, component)
      assert.deepEqual(destinationOf(rendered, 'focus-server', 5000), expected)
      const deployment = one(rendered, 'Deployment', 'focus-server')
      assert.equal(at(podOf(deployment), 'metadata', 'annotations', 'example.com/version'), options.version)
    }
    assert.deepEqual(destinationOf(chartOf(manifests, AFTER), 'focus-server', 5000), SERVER)
  }
})

test('a chart whose Service has another name fails the upgrade instead of bypassing the proxy silently', t => {
  if (!requireOrSkip(t, 'kubectl', 'helm')) return
  const manifests = withPlugin(t)
  writeChart(manifests, 'chart', { ...BEFORE, service: 'focus-server-http' })
  const chart = succeeded(manifests.helm('template', 'lab', 'chart'))
  for (const component of [
    'overlays/take-over-service',
    'overlays/take-over-service/prepare',
    'overlays/sidecar',
    'overlays/absent',
  ]) {
    const { status, stderr } = manifests.helm(
      ...['template', 'lab', 'chart', '--post-renderer', 'focus-breaker', '--post-renderer-args', component],
    )
    assert.notEqual(status, 0, component)
    // Helm 4 does not pass on the output of a plugin, so the page has the script for that.
    assert.match(stderr, /plugin "focus-breaker" exited with error/)
    const byScript = manifests.run(`${BASE}/helm/post-render.sh`, [component], chart)
    assert.notEqual(byScript.status, 0)
    assert.match(byScript.stderr, /focus-server|absent/)
  }
})

test('a chart whose Deployment has another name gets no Service that leads to a missing sidecar', t => {
  if (!requireOrSkip(t, 'kubectl', 'helm')) return
  const manifests = withPlugin(t)
  for (const namespace of [undefined, 'lab']) {
    const options = { ...BEFORE, deployment: 'focus-server-api', ...(namespace && { namespace }) }
    writeChart(manifests, 'chart', options)
    const chart = succeeded(manifests.helm('template', 'lab', 'chart'))
    const { status, stderr } = manifests.run(`${BASE}/helm/post-render.sh`, ['overlays/sidecar'], chart)
    assert.notEqual(status, 0)
    assert.match(stderr, /nothing selected by Deployment.*focus-server/)
  }
})

test('Helm 3 runs the script itself, which renders the same and leaves nothing behind', t => {
  if (!requireOrSkip(t, 'kubectl', 'helm')) return
  const manifests = withPlugin(t)
  const sorted = (documents: readonly Manifest[]) =>
    documents.map(document => JSON.stringify(document)).toSorted()
  for (const component of ['overlays/take-over-service', 'overlays/sidecar']) {
    const byPlugin = postRendered(manifests, AFTER, component)
    const chart = succeeded(manifests.helm('template', 'lab', 'chart'))
    const byScript = manifests.run(`${BASE}/helm/post-render.sh`, [component], chart)
    assert.deepEqual(sorted(parse(succeeded(byScript))), sorted(byPlugin))
  }
  const failed = manifests.run(`${BASE}/helm/post-render.sh`, ['overlays/absent'], '')
  assert.notEqual(failed.status, 0)
  assert.equal(manifests.run('/usr/bin/find', [BASE, '-name', '.post-render*']).stdout, '')
})

test('image, plugin and manifests have the version of the package', t => {
  if (!requireOrSkip(t, 'kubectl', 'helm')) return
  const manifests = withPlugin(t)
  const manifest: unknown = JSON.parse(readFileSync(join(repositoryRoot, 'package.json'), 'utf8'))
  const version = String(at(manifest, 'version'))
  const rendered = [
    ...manifests.render(`${BASE}/base`),
    ...postRendered(manifests, BEFORE, 'overlays/sidecar'),
  ]
  const images = [...JSON.stringify(rendered).matchAll(/"focus-breaker:([^"]+)"/g)]
  assert.deepEqual(
    images.map(([, tag]) => tag),
    [version, version],
  )
  assert.match(succeeded(manifests.helm('plugin', 'list')), new RegExp(`focus-breaker\\s+${version}\\s`))
})
