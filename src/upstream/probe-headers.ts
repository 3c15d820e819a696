import { type HeaderValue, headerValueIn } from '../domain/header-value.js'

/** The headers that are sent with each probe. The contents of their files are put in by what follows the files. */
export class ProbeHeaders {
  readonly #settings: () => Readonly<Record<string, HeaderValue>>
  readonly #byFile = new Map<string, string>()

  /** @param settings read again at each probe. */
  constructor(settings: () => Readonly<Record<string, HeaderValue>>) {
    this.#settings = settings
  }

  /** The files that values are in. */
  get files(): readonly string[] {
    const files = Object.values(this.#settings()).flatMap(value =>
      typeof value === 'string' ? [] : [value.file],
    )
    return [...new Set(files)]
  }

  /** Takes over what a file holds. @throws if that cannot be the value of a header; the earlier one stays. */
  use(file: string, text: string): void {
    const value = headerValueIn(text)
    if (value === undefined) throw new Error('the file does not hold the value of a header')
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
