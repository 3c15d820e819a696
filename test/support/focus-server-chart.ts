import { stringify } from 'yaml'

/** What differs between versions of the focus-server chart and between sites. */
export interface ChartOptions {
  readonly version?: string
  /** The labels of its Pods, by which its Deployment and its Service select them. */
  readonly labels?: Readonly<Record<string, string>>
  /** The target port of its Service; if absent, Kubernetes uses the port itself. */
  readonly targetPort?: string | number
  readonly service?: string
  /** The port of its Service. */
  readonly port?: number
  /** Additional ports of its Service. */
  readonly ports?: readonly object[]
  readonly deployment?: string
  /** The namespace of its objects; by default they leave it to Helm. */
  readonly namespace?: string
  /** The termination grace period of its Pods. */
  readonly graceSeconds?: number
  readonly hasInitContainer?: boolean
  readonly hasIngress?: boolean
}

/**
 * Writes a chart like that of focus-server: a Deployment of one Pod, a Service, an Ingress that strips the prefix, a
 * hook.
 */
export function writeChart(
  manifests: { write(name: string, text: string): void },
  folder: string,
  options: ChartOptions = {},
): void {
  const { version = '1.0.0', labels = { app: 'focus-server' } } = options
  const { service = 'focus-server', deployment: name = 'focus-server' } = options
  manifests.write(`${folder}/Chart.yaml`, stringify({ apiVersion: 'v2', name: 'focus-server', version }))
  const image = `focus-server:${version}`
  const place = options.namespace === undefined ? {} : { namespace: options.namespace }
  const metadata = { name, ...place, labels }
  const deployment = {
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata,
    spec: {
      replicas: 1,
      selector: { matchLabels: labels },
      template: {
        metadata: { labels, annotations: { 'example.com/version': version } },
        spec: {
          ...(options.graceSeconds !== undefined && {
            terminationGracePeriodSeconds: options.graceSeconds,
          }),
          ...(options.hasInitContainer === true && {
            initContainers: [{ name: 'migrate', image, command: ['migrate', version] }],
          }),
          containers: [
            {
              name: 'focus-server',
              image,
              env: [{ name: 'DATABASE', value: 'mongodb://192.0.2.7' }],
              ports: [{ name: 'http', containerPort: 5000 }],
            },
          ],
        },
      },
    },
  }
  const { targetPort } = options
  const port = { name: 'http', port: options.port ?? 5000, ...(targetPort !== undefined && { targetPort }) }
  const parts: readonly object[] = [
    deployment,
    {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { ...metadata, name: service },
      spec: { type: 'ClusterIP', selector: labels, ports: [port, ...(options.ports ?? [])] },
    },
    ...(options.hasIngress === false ? [] : [ingressTo(service, place)]),
    {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name: 'focus-server-test', ...place, annotations: { 'helm.sh/hook': 'test' } },
      spec: { restartPolicy: 'Never', containers: [{ name: 'test', image, command: ['test'] }] },
    },
  ]
  manifests.write(
    `${folder}/templates/all.yaml`,
    parts.map(part => `---\n${stringify(part, { lineWidth: 0 })}`).join(''),
  )
}

function ingressTo(service: string, place: object): object {
  const backend = { service: { name: service, port: { number: 5000 } } }
  const path = { path: '/focus-server(/|$)(.*)', pathType: 'ImplementationSpecific', backend }
  return {
    apiVersion: 'networking.k8s.io/v1',
    kind: 'Ingress',
    metadata: {
      name: 'focus-server',
      ...place,
      annotations: { 'nginx.ingress.kubernetes.io/rewrite-target': '/$2' },
    },
    spec: { rules: [{ host: 'focus-server.example.com', http: { paths: [path] } }] },
  }
}
