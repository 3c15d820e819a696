import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import type { TestContext } from 'node:test'
import { parseAllDocuments, stringify } from 'yaml'
import { at, repositoryRoot, testTools } from './harness.js'

/** The label of an installation. */
export const INSTANCE = 'app.kubernetes.io/instance'

/** One Kubernetes document. */
export type Manifest = Readonly<Record<string, unknown>>

/** What a program printed, and how it ended. */
export interface Ran {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

/** A copy of `deploy/` in its own folder, next to which a test can put kustomizations and charts. */
export class Manifests {
  readonly directory: string

  constructor(t: TestContext) {
    this.directory = mkdtempSync(join(tmpdir(), 'focus-breaker-manifests-'))
    t.after(() => rmSync(this.directory, { recursive: true, force: true }))
    cpSync(join(repositoryRoot, 'deploy'), join(this.directory, 'deploy'), { recursive: true })
  }

  write(name: string, text: string): void {
    const file = join(this.directory, name)
    mkdirSync(dirname(file), { recursive: true })
    writeFileSync(file, text)
  }

  /** The output of `kubectl kustomize` for a folder. */
  render(folder: string): readonly Manifest[] {
    return parse(this.kubectl(['kustomize', folder]))
  }

  /** The output for a user's kustomization, given as an object, placed next to `deploy/`. */
  renderOwn(
    kustomization: Readonly<Record<string, unknown>>,
    resources?: readonly Manifest[],
  ): readonly Manifest[] {
    if (resources !== undefined) {
      this.write('own/resources.yaml', resources.map(one => `---\n${stringify(one)}`).join(''))
    }
    this.write('own/kustomization.yaml', stringify(kustomization))
    return this.render('own')
  }

  /** Runs kubectl to its end, and returns what it printed; a failure fails the test. */
  kubectl(args: readonly string[], input?: string): string {
    return succeeded(this.run(testTools.kubectl, args, input))
  }

  /** Runs Helm with separate folders for its plugins and its configuration. */
  helm(...args: readonly string[]): Ran {
    return this.run(testTools.helm, args)
  }

  /** Runs a program in the folder, with `kubectl` on its path. */
  run(command: string, args: readonly string[], input = ''): Ran {
    const home = join(this.directory, 'home')
    mkdirSync(home, { recursive: true })
    const { status, stdout, stderr } = spawnSync(command, args, {
      cwd: this.directory,
      encoding: 'utf8',
      input,
      env: { PATH: `${dirname(testTools.kubectl)}:/usr/bin:/bin`, HOME: home },
      timeout: 60_000,
    })
    return { status, stdout, stderr }
  }
}

/** The output of a program, which must succeed. */
export function succeeded({ status, stdout, stderr }: Ran): string {
  assert.equal(status, 0, stderr)
  return stdout
}

/** The documents of a text, which must be free of errors and warnings. */
export function parse(text: string): readonly Manifest[] {
  return parseAllDocuments(text).flatMap(document => {
    assert.deepEqual([...document.errors, ...document.warnings], [])
    const value: unknown = document.toJS()
    // A document can consist of comments only.
    if (value === null) return []
    assert.ok(typeof value === 'object')
    return [{ ...value }]
  })
}

/** The documents of a file of `deploy/kubernetes`. */
export function fileOf(name: string): readonly Manifest[] {
  return parse(readFileSync(join(repositoryRoot, 'deploy/kubernetes', name), 'utf8'))
}

/** The one document of this kind and name. */
export function one(manifests: readonly Manifest[], kind: string, name = 'focus-breaker'): Manifest {
  const found = manifests.filter(manifest => manifest.kind === kind && nameOf(manifest) === name)
  const [first] = found
  assert.ok(first !== undefined && found.length === 1, `${found.length} of ${kind} ${name}`)
  return first
}

/** The name of a document. */
export function nameOf(manifest: unknown): string {
  return String(at(manifest, 'metadata', 'name'))
}

/** The elements of a list in a document; none if it is absent. */
export function listAt(value: unknown, ...keys: readonly (string | number)[]): readonly unknown[] {
  const list = at(value, ...keys)
  if (list === undefined) return []
  assert.ok(Array.isArray(list), `${keys.join('.')} is not a list`)
  return list
}

/** The members of an object in a document; none if it is absent. */
export function membersAt(
  value: unknown,
  ...keys: readonly (string | number)[]
): Readonly<Record<string, unknown>> {
  return { ...Object(at(value, ...keys) ?? {}) }
}

/** The Pod template of a Deployment or a Job. */
export function podOf(workload: unknown): unknown {
  return at(workload, 'spec', 'template')
}

/** The element of a list with this name. */
export function named(list: readonly unknown[], name: string): unknown {
  const found = list.filter(element => at(element, 'name') === name)
  assert.equal(found.length, 1, `${found.length} named ${name}`)
  return found[0]
}

/** The port of a Deployment's container that a Service or a route leads to. */
export interface Destination {
  readonly deployment: string
  readonly container: string
  readonly port: number
}

/** The target of a Service port: the container with its target port, in the Pods it selects. */
export function destinationOf(manifests: readonly Manifest[], service: string, port: unknown): Destination {
  const found = one(manifests, 'Service', service)
  const ports = listAt(found, 'spec', 'ports')
  const servicePort = ports.find(candidate =>
    typeof port === 'string' ? at(candidate, 'name') === port : at(candidate, 'port') === port,
  )
  assert.ok(servicePort !== undefined, `the Service ${service} has no port ${port}`)
  const target = at(servicePort, 'targetPort') ?? at(servicePort, 'port')
  const deployments = selectedBy(manifests, membersAt(found, 'spec', 'selector'))
  const [deployment] = deployments
  assert.ok(deployment !== undefined && deployments.length === 1, `${service}: ${deployments.map(nameOf)}`)
  const pod = at(podOf(deployment), 'spec')
  // Only recent versions of Kubernetes resolve a sidecar's port by name for a Service, so this does not.
  const containers =
    typeof target === 'string'
      ? listAt(pod, 'containers')
      : [
          ...listAt(pod, 'containers'),
          ...listAt(pod, 'initContainers').filter(container => at(container, 'restartPolicy') === 'Always'),
        ]
  for (const container of containers) {
    for (const declared of listAt(container, 'ports')) {
      const number = at(declared, 'containerPort')
      if (typeof number === 'number' && (at(declared, 'name') === target || number === target)) {
        return { deployment: nameOf(deployment), container: String(at(container, 'name')), port: number }
      }
    }
  }
  assert.fail(`no container of ${nameOf(deployment)} has the port ${target} of the Service ${service}`)
}

/** The Deployments whose Pods have all of these labels. No labels select nothing. */
export function selectedBy(
  manifests: readonly Manifest[],
  labels: Readonly<Record<string, unknown>>,
): readonly Manifest[] {
  const pairs = Object.entries(labels)
  assert.notEqual(pairs.length, 0, 'an empty selector')
  return manifests.filter(
    manifest =>
      manifest.kind === 'Deployment' &&
      pairs.every(([key, value]) => at(podOf(manifest), 'metadata', 'labels', key) === value),
  )
}

/**
 * The destination of a path through the Ingresses and HTTPRoutes of these documents, and the path that arrives there.
 *
 * Follows their specifications: an exact path before a prefix, the longest prefix first; a regular expression as
 * ingress-nginx reads it.
 */
export function routeOf(
  manifests: readonly Manifest[],
  path: string,
): { readonly destination: Destination; readonly path: string } {
  const rows = [
    ...manifests.filter(({ kind }) => kind === 'Ingress').flatMap(rowsOfIngress),
    ...manifests.filter(({ kind }) => kind === 'HTTPRoute').flatMap(rowsOfHttpRoute),
  ]
  const matching = rows.filter(({ value, type }) => {
    if (type === 'Exact') return path === value
    if (type === 'ImplementationSpecific') return new RegExp(`^${value}`).test(path)
    return path === value || path.startsWith(`${value}/`)
  })
  const rank = (row: (typeof rows)[number]) => (row.type === 'Exact' ? 10_000 : 0) + row.value.length
  const [best] = matching.toSorted((a, b) => rank(b) - rank(a))
  assert.ok(best !== undefined, `no rule for ${path}`)
  return {
    destination: destinationOf(manifests, best.service, best.port),
    path: best.rewrite === undefined ? path : path.replace(new RegExp(`^${best.value}`), best.rewrite),
  }
}

interface Row {
  readonly type: string
  readonly value: string
  readonly service: string
  readonly port: unknown
  readonly rewrite?: string
}

function rowsOfIngress(ingress: Manifest): readonly Row[] {
  const rewrite = at(ingress, 'metadata', 'annotations', 'nginx.ingress.kubernetes.io/rewrite-target')
  return listAt(ingress, 'spec', 'rules').flatMap(rule =>
    listAt(rule, 'http', 'paths').map(path => {
      const service = at(path, 'backend', 'service')
      return {
        type: String(at(path, 'pathType')),
        value: String(at(path, 'path')),
        service: String(at(service, 'name')),
        port: at(service, 'port', 'name') ?? at(service, 'port', 'number'),
        ...(typeof rewrite === 'string' && { rewrite }),
      }
    }),
  )
}

function rowsOfHttpRoute(route: Manifest): readonly Row[] {
  return listAt(route, 'spec', 'rules').flatMap(rule => {
    // Anything that would change the path on its way.
    assert.equal(at(rule, 'filters'), undefined)
    const backends = listAt(rule, 'backendRefs')
    assert.equal(backends.length, 1)
    return listAt(rule, 'matches').map(match => ({
      type: String(at(match, 'path', 'type')),
      value: String(at(match, 'path', 'value')),
      service: String(at(backends[0], 'name')),
      port: at(backends[0], 'port'),
    }))
  })
}

/** Fields of Pod Security `restricted`, each with what is wrong about a Pod; empty for an admitted Pod. */
export function notRestricted(pod: unknown): readonly string[] {
  const wrong: string[] = []
  const say = (isWrong: boolean, what: string) => {
    if (isWrong) wrong.push(what)
  }
  for (const field of ['hostNetwork', 'hostPID', 'hostIPC']) say(at(pod, field) === true, field)
  for (const volume of listAt(pod, 'volumes')) {
    const types = Object.keys(membersAt(volume)).filter(key => key !== 'name')
    say(types.length !== 1 || !VOLUMES.includes(types[0] ?? ''), `volume of ${types.join(', ')}`)
  }
  const forPod = at(pod, 'securityContext')
  say(listAt(forPod, 'sysctls').length > 0, 'sysctls')
  for (const container of [...listAt(pod, 'initContainers'), ...listAt(pod, 'containers')]) {
    const name = String(at(container, 'name'))
    const own = at(container, 'securityContext')
    const inForce = (...keys: readonly string[]) => at(own, ...keys) ?? at(forPod, ...keys)
    say(at(own, 'privileged') === true, `${name}: privileged`)
    say(at(own, 'allowPrivilegeEscalation') !== false, `${name}: allowPrivilegeEscalation`)
    say(inForce('runAsNonRoot') !== true, `${name}: runAsNonRoot`)
    say(inForce('runAsUser') === 0, `${name}: runAsUser`)
    const seccomp = inForce('seccompProfile', 'type')
    say(seccomp !== 'RuntimeDefault' && seccomp !== 'Localhost', `${name}: seccompProfile`)
    say(!listAt(own, 'capabilities', 'drop').includes('ALL'), `${name}: capabilities.drop`)
    const added = listAt(own, 'capabilities', 'add')
    say(
      added.some(capability => capability !== 'NET_BIND_SERVICE'),
      `${name}: capabilities.add`,
    )
    say(![undefined, 'Default'].includes(textAt(own, 'procMount')), `${name}: procMount`)
    say(inForce('seLinuxOptions') !== undefined, `${name}: seLinuxOptions`)
    say(inForce('windowsOptions', 'hostProcess') === true, `${name}: hostProcess`)
    const appArmor = textAt({ type: inForce('appArmorProfile', 'type') }, 'type')
    say(![undefined, 'RuntimeDefault', 'Localhost'].includes(appArmor), `${name}: appArmorProfile`)
    say(
      listAt(container, 'ports').some(port => at(port, 'hostPort') !== undefined),
      `${name}: hostPort`,
    )
    for (const probe of ['startupProbe', 'livenessProbe', 'readinessProbe']) {
      for (const kind of ['httpGet', 'tcpSocket']) {
        say(at(container, probe, kind, 'host') !== undefined, `${name}: ${probe}.host`)
      }
    }
  }
  return wrong
}

const VOLUMES = [
  ...['configMap', 'csi', 'downwardAPI', 'emptyDir', 'ephemeral', 'persistentVolumeClaim', 'projected'],
  'secret',
]

function textAt(value: unknown, key: string): string | undefined {
  const found = at(value, key)
  return found === undefined ? undefined : String(found)
}

/** The location of a document's type in the package of types; an unknown kind fails. */
function moduleOf(manifest: Manifest): string {
  const apiVersion = String(manifest.apiVersion)
  const kind = String(manifest.kind)
  const group = apiVersion.includes('/') ? apiVersion.slice(0, apiVersion.indexOf('/')) : ''
  const packages: Readonly<Record<string, string>> = {
    'gateway.networking.k8s.io': '@kubernetes-models/gateway-api',
    'monitoring.coreos.com': '@kubernetes-models/prometheus-operator',
  }
  return `${packages[group] ?? 'kubernetes-models'}/${apiVersion}/${kind}`
}

/**
 * The compiler's errors for these documents, each as a literal of its Kubernetes type; empty if all are valid. A
 * literal may not have a member that its type does not have, so a misspelt field is an error, in `<index>-<kind>.ts`.
 */
export function typeErrors(t: TestContext, manifests: readonly Manifest[]): string {
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-types-'))
  t.after(() => rmSync(directory, { recursive: true, force: true }))
  symlinkSync(join(repositoryRoot, 'test/tools/node_modules'), join(directory, 'node_modules'))
  const files = manifests.map((manifest, index) => {
    const name = `${index}-${manifest.kind}.ts`
    const text =
      `import type { I${manifest.kind} as Type } from '${moduleOf(manifest)}'\n` +
      `export const document: Type = ${JSON.stringify(manifest, null, 1)}\n`
    writeFileSync(join(directory, name), text)
    return name
  })
  const compilerOptions = {
    strict: true,
    noEmit: true,
    module: 'nodenext',
    target: 'es2022',
    skipLibCheck: true,
    types: [],
  }
  writeFileSync(join(directory, 'tsconfig.json'), JSON.stringify({ compilerOptions, files }))
  writeFileSync(join(directory, 'package.json'), '{"type":"module"}')
  const compiler = join(repositoryRoot, 'node_modules/.bin/tsc')
  const { status, stdout, stderr } = spawnSync(compiler, ['-p', directory], {
    cwd: directory,
    encoding: 'utf8',
  })
  assert.ok(status !== null, stderr)
  assert.equal(status === 0, stdout === '', `${stdout}${stderr}`)
  return stdout
}
