import { isDeepStrictEqual } from 'node:util'
import { withSecret } from './load.js'
import { describe } from './options.js'
import type { Config } from './schema.js'

/** Options that are used only at the start, for example to open sockets. They need a restart. */
const FIXED =
  /^(server|upstream|replicas)\.|^(basePath|probe\.path|log\.format|history\.file|override\.file)$/

/** Whether a change of this option takes effect only at the next start. */
export function needsRestart(option: string): boolean {
  return FIXED.test(option)
}

/** The options that a reload changed: those now in force, and those that need a restart. */
export type Reloaded = { readonly applied: readonly string[]; readonly needRestart: readonly string[] }

/** Holds the configuration in force. Code that reads `current` at each use follows a reload. */
export class LiveConfig {
  #current: Config

  constructor(config: Config) {
    this.#current = config
  }

  get current(): Config {
    return this.#current
  }

  /** Applies the new text of a secret's file. @throws if it is invalid; the configuration then stays as it is. */
  replaceSecret(name: string, text: string): void {
    const next = withSecret(this.#current, name, text)
    if (!isDeepStrictEqual(optionOf(next, name), optionOf(this.#current, name))) this.#current = next
  }

  /** Applies the options that can change at run time, and returns the names of all changed options. */
  replace(next: Config): Reloaded {
    const previous = this.#current
    const changed = describe()
      .options.map(option => option.name)
      .filter(name => !isDeepStrictEqual(optionOf(previous, name), optionOf(next, name)))
    const { server, upstream, basePath, probe, log, history, override, replicas } = previous
    this.#current = {
      ...next,
      server,
      upstream,
      basePath,
      history,
      override,
      replicas,
      probe: { ...next.probe, path: probe.path },
      log: { ...next.log, format: log.format },
    }
    return {
      applied: changed.filter(name => !needsRestart(name)),
      needRestart: changed.filter(needsRestart),
    }
  }
}

function optionOf(config: Config, name: string): unknown {
  let value: unknown = config
  for (const key of name.split('.')) {
    value = typeof value === 'object' && value !== null ? Reflect.get(value, key) : undefined
  }
  return value
}
