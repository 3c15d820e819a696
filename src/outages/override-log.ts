import type { Breaker } from '../breaker/breaker.js'
import { isDeclared, type Override, overrideAsJson } from '../domain/override.js'
import { type Changes, IN_MEMORY, type Store } from './keeper.js'
import { OverrideRecord, overrideFromJson } from './record.js'

/** Its key in the file. */
const STANDING = 'override'

/** Remembers the override that was set over HTTP and stands. */
export class OverrideLog {
  readonly #changes: Changes
  #standing: Override | undefined

  constructor(store: Store = IN_MEMORY) {
    this.#changes = store.join({
      kind: 'standing',
      schema: OverrideRecord,
      maxBytes: 16_384,
      records: () =>
        this.#standing === undefined ? [] : [[STANDING, overrideAsJson(this.#standing)] as const],
      record: () => this.#standing && overrideAsJson(this.#standing),
      resume: records => {
        const [, record] = records.at(-1) ?? []
        this.#standing = record && overrideFromJson(record)
      },
    })
  }

  /** The override that was set over HTTP last, if it was not taken back. It may have ended meanwhile. */
  get standing(): Override | undefined {
    return this.#standing
  }

  /** Begins to listen to the breaker. The order of these calls is the order in which its listeners hear of a change. */
  attach(breaker: Breaker): void {
    breaker.on('override', ({ kind, override }) => {
      // The declared one has a file of its own.
      if (isDeclared(override)) return
      this.#standing = kind === 'set' ? override : undefined
      this.#changes.changedNow(STANDING)
    })
  }
}
