import { Document, isMap, isScalar, type Pair } from 'yaml'
import { masked } from '../config/load.js'
import { describe } from '../config/options.js'
import type { Config } from '../config/schema.js'
import { oneLine } from '../domain/text.js'

/**
 * Returns a valid configuration as YAML with secrets masked. A comment at each value gives its origin: a flag, a
 * variable, the position in a file, or the default.
 */
export function effectiveConfiguration(config: Config, origins: ReadonlyMap<string, string>): string {
  const document = new Document(masked(config))
  document.commentBefore =
    ' The configuration is valid. The comments give the origin of each value; that of a list is above it.'
  const secrets = new Set(
    describe()
      .options.filter(({ schema }) => schema.secret === true)
      .map(({ name }) => name),
  )
  for (const { name } of describe().options) {
    const keys = name.split('.')
    const parent = document.getIn(keys.slice(0, -1), true)
    const pair = isMap(parent) ? parent.items.find(item => keyOf(item) === keys.at(-1)) : undefined
    if (pair === undefined) continue
    // The origin of a secret that is read from its own file is that file.
    const origin = origins.get(name) ?? (secrets.has(name) ? origins.get(`${name}File`) : undefined)
    const comment = ` ${oneLine(origin ?? 'default')}`
    if (isScalar(pair.value)) pair.value.comment = comment
    else if (isScalar(pair.key)) pair.key.commentBefore = comment
  }
  return document.toString({ lineWidth: 0 })
}

function keyOf({ key }: Pair<unknown, unknown>): unknown {
  return isScalar(key) ? key.value : key
}
