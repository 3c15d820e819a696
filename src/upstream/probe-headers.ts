import { type HeaderValue, headerValueIn } from '../domain/header-value.js'

/**
 * The headers that are sent with each probe. Values from files are set with `use` by the component that watches them.
 */
export class ProbeHeaders {
  readonly #settings: () => Readonly<Record<string, HeaderValue>>
  readonly #byFile = new Map<string, string>()

  /** @param settings called for each probe. */
  constructor(settings: () => Readonly<Record<string, HeaderValue>>) {
    this.#settings = settings
  }

  /** The files that contain header values. */
  get files(): readonly string[] {
    const files = Object.values(this.#settings()).flatMap(value =>
      typeof value === 'string' ? [] : [value.file],
    )
    return [...new Set(files)]
  }

  /** Uses the contents of a file. Throws if they are not a valid header value; the earlier value is then kept. */
  use(file: string, text: string): void {
    const value = headerValueIn(text)
    if (value === undefined) throw new Error('the file does not contain a valid header value')
    this.#byFile.set(file, value)
  }

  /** The headers by lower-case name. */
  current(): Readonly<Record<string, string>> {
    return Object.fromEntries(
      Object.entries(this.#settings()).flatMap(([name, value]) => {
        const text = typeof value === 'string' ? value : this.#byFile.get(value.file)
        return text === undefined ? [] : [[name.toLowerCase(), text]]
      }),
    )
  }
}
