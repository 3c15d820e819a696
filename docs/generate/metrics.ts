import { codes, table } from './markdown.js'

/** Additions to the help of a metric, by the name of the metric without its prefix. */
const NOTES: Readonly<Record<string, string>> = {
  state_seconds_total: 'An outage between two scrapes is counted too.',
  history_writable:
    'Only with `history.file`. 0 after a failed write (a full disk, permissions) until a write succeeds, while the file is not a history file, and while another process writes it. The file is written at least every 10 seconds.',
  history_bytes: 'Only with `history.file`. At most 16 MiB.',
  outage_start_timestamp_seconds:
    'With `history.file`, this includes an outage that began in an earlier process.',
  forwarded_requests_total: '`none` counts requests whose client disconnected before the response.',
  upstream_errors_total: 'The kinds are the error types of RFC 9209.',
  replicas: 'Only with `replicas.url`. A replica that cannot reach the others counts only itself.',
  replicas_joined: 'Only with `replicas.url`.',
  replicas_prober:
    'Only with `replicas.url`. One of the connected replicas probes, and so does each disconnected one.',
  replicas_skipped_entries_total: 'Only with `replicas.url`.',
}

const PREFIX = 'focus_breaker_'

type Metric = { readonly name: string; readonly help: string; readonly type: string; readonly labels: Labels }

/** The values of each label. */
type Labels = ReadonlyMap<string, ReadonlySet<string>>

/** `docs/reference/metrics.md`, from the text of `/-/metrics`. */
export function metricsPage(exposition: string): string {
  const metrics = metricsOf(exposition).sort((a, b) => a.name.localeCompare(b.name, 'en'))
  const unknown = Object.keys(NOTES).filter(name => metrics.every(metric => metric.name !== PREFIX + name))
  if (unknown.length > 0) throw new Error(`docs/generate/metrics.ts has notes on unknown metrics: ${unknown}`)
  const rows = metrics.map(({ name, help, type, labels }) => [
    `\`${name}\``,
    type,
    [...labels.keys()].map(label => `\`${label}\``).join(', '),
    [help, NOTES[name.slice(PREFIX.length)] ?? ''].join(' ').trim(),
  ])
  return `# Metrics

Generated from the metrics of the program by \`npm run docs\`.

\`GET /-/metrics\` serves the text format of Prometheus. Every series exists from the start, so that \`rate()\` sees the
first event. No label has a value that a client can choose. The usual process metrics are exported as well
(\`process_…\`, \`nodejs_…\`).

${table(['Metric', 'Type', 'Labels', 'Description'], rows)}

## Values of the labels

${table(['Label', 'Values'], labelRows(metrics))}

[Prometheus](../how-to/prometheus.md) has the scrape configuration, the alerts and the dashboard.
`
}

/** Each label, grouped by the metrics that have the same values for it. */
function labelRows(metrics: readonly Metric[]): readonly (readonly string[])[] {
  const shared = new Map<
    string,
    { readonly label: string; readonly values: readonly string[]; in: string[] }
  >()
  for (const { name, labels } of metrics) {
    for (const [label, values] of labels) {
      if (label === 'version') continue
      const key = `${label} ${[...values].sort().join(' ')}`
      const known = shared.get(key) ?? { label, values: [...values], in: [] }
      known.in.push(name.slice(PREFIX.length))
      shared.set(key, known)
    }
  }
  return [...shared.values()]
    .sort((a, b) => a.label.localeCompare(b.label, 'en'))
    .map(({ label, values, in: names }) => [`\`${label}\` of ${codes(names)}`, codes(values)])
}

function metricsOf(exposition: string): Metric[] {
  return [
    ...exposition.matchAll(/^# HELP (focus_breaker_\w+) (.*)\n# TYPE \1 (\w+)\n((?:\1\w*[ {].*\n?)*)/gm),
  ].map(([, name = '', help = '', type = '', series = '']) => ({
    name,
    help,
    type,
    labels: labelsOf(series),
  }))
}

function labelsOf(series: string): Labels {
  const labels = new Map<string, Set<string>>()
  for (const [, label = '', value = ''] of series.matchAll(/(\w+)="([^"]*)"/g)) {
    // The buckets of a histogram.
    if (label === 'le') continue
    labels.set(label, (labels.get(label) ?? new Set()).add(value))
  }
  return labels
}
