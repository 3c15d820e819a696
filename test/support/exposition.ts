import assert from 'node:assert/strict'

/** One series of an exposition in Prometheus' text format. */
export interface Series {
  readonly name: string
  readonly labels: ReadonlyMap<string, string>
  readonly value: number
}

/** A whole exposition, parsed strictly: an invalid line fails the test. */
export class Exposition {
  readonly series: readonly Series[]

  constructor(text: string) {
    this.series = text
      .split('\n')
      .filter(line => line !== '' && !line.startsWith('#'))
      .map(seriesOf)
  }

  /** The one series of this name that has these labels, and possibly others. */
  value(name: string, labels: Readonly<Record<string, string>> = {}): number {
    const found = this.#matching(name, Object.entries(labels))
    assert.equal(found.length, 1, `${found.length} series match ${name} ${JSON.stringify(labels)}`)
    return found[0]?.value ?? Number.NaN
  }

  /** The sum of all series of this name that have these labels. */
  sum(name: string, labels: Readonly<Record<string, string>> = {}): number {
    return this.#matching(name, Object.entries(labels)).reduce((sum, { value }) => sum + value, 0)
  }

  /** The values that a label of a metric has. */
  valuesOf(name: string, label: string): readonly string[] {
    const all = this.#matching(name, []).flatMap(({ labels }) => labels.get(label) ?? [])
    return [...new Set(all)]
  }

  /** Every series as its name and labels, for comparison. */
  get names(): readonly string[] {
    return this.series.map(({ name, labels }) => `${name} ${[...labels].map(pair => pair.join('=')).join()}`)
  }

  #matching(name: string, labels: readonly (readonly [string, string])[]): readonly Series[] {
    return this.series.filter(
      series => series.name === name && labels.every(([label, value]) => series.labels.get(label) === value),
    )
  }
}

/** The labels that Prometheus and its operator add to every series. */
const OF_THE_SCRAPE = new Set(['instance', 'job', 'pod'])

/**
 * The parts of a PromQL expression that the exposition does not have: a metric, a label to group by, or a label's
 * value. Empty if all exist.
 */
export function missingFor(expression: string, exposition: Exposition): readonly string[] {
  const selectors = [...expression.matchAll(/\b((?:focus_breaker|process|nodejs)_\w+)(?:\{([^}]*)\})?/g)]
  const grouping = [...expression.matchAll(/\b(?:by|without|on|ignoring) ?\(([^)]*)\)/g)]
    .flatMap(([, labels = '']) => labels.split(','))
    .map(label => label.trim())
    .filter(label => label !== '' && !OF_THE_SCRAPE.has(label))
  const names = selectors.map(([, name = '']) => name)
  return [
    ...selectors.flatMap(([, name = '', matchers = '']) => {
      const known = exposition.series.filter(series => series.name === name)
      if (known.length === 0) return [`metric ${name}`]
      return [...matchers.matchAll(/(\w+)(=~|!=|!~|=)"([^"]*)"/g)].flatMap(
        ([, label = '', operator = '', value = '']) => {
          if (OF_THE_SCRAPE.has(label)) return []
          const values = known.map(({ labels }) => labels.get(label))
          if (values.every(each => each === undefined)) return [`label ${label} of ${name}`]
          const wanted = operator.endsWith('~') ? value.split('|') : [value]
          return wanted
            .filter(each => !values.includes(each))
            .map(each => `value ${each} of ${name}'s ${label}`)
        },
      )
    }),
    ...grouping
      .filter(label => !exposition.series.some(each => names.includes(each.name) && each.labels.has(label)))
      .map(label => `label ${label} to group by`),
  ]
}

function seriesOf(line: string): Series {
  const [, name, labels = '', value] = /^([a-zA-Z_:]\w*)(?:\{(.*)\})? (\S+)$/.exec(line) ?? []
  assert.ok(name !== undefined && value !== undefined, `not a line of an exposition: ${line}`)
  const pairs = [...labels.matchAll(/(\w+)="((?:[^"\\]|\\.)*)",?/g)].map(
    ([, label = '', text = '']) => [label, text] as const,
  )
  return { name, labels: new Map(pairs), value: Number(value.replace('Inf', 'Infinity')) }
}
