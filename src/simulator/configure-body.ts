import { channelLimits, type JobRequest } from './samples.js'

/** One entry of FastAPI's 422 body, `{"detail":[…]}`. */
export interface ValidationFault {
  readonly type: string
  readonly loc: readonly (string | number)[]
  readonly msg: string
  readonly input: unknown
  readonly ctx?: { readonly error: string }
}

/** A request body as FastAPI would pass it to an endpoint, or the faults of its 422. */
export type Body<T> =
  | { readonly kind: 'valid'; readonly value: T }
  | { readonly kind: 'invalid'; readonly detail: readonly ValidationFault[] }
  /**
   * The body is valid but no job can be made from it: focus-server's own 500. It is not known when the real server
   * sends it.
   */
  | { readonly kind: 'unusable' }

/** A time range in Unix seconds. */
export interface TimeRange {
  readonly startSeconds: number
  readonly endSeconds: number
}

/**
 * Reads the body of `POST /configure`. `channels`, `displayInfo` and `view_type` are required (it is not known which
 * fields the real server requires). `range` is set for a historic job, which has both times.
 */
export function readConfigure(
  text: string,
  contentType: string | undefined,
): Body<JobRequest & { readonly range: TimeRange | null }> {
  const fields = new Fields(text, contentType)
  const min = fields.integer(['channels', 'min'])
  const max = fields.integer(['channels', 'max'])
  fields.integer(['displayInfo', 'height'])
  const viewType = fields.integer(['view_type'])
  const nfft = fields.optionalInteger(['nfftSelection']) ?? 1024
  const lowest = fields.optionalInteger(['frequencyRange', 'min']) ?? 0
  const highest = fields.optionalInteger(['frequencyRange', 'max']) ?? 500
  const startSeconds = fields.optionalInteger(['start_time'])
  const endSeconds = fields.optionalInteger(['end_time'])
  if (fields.faults.length > 0) return { kind: 'invalid', detail: fields.faults }

  const { lowest: firstChannel, highest: lastChannel } = channelLimits
  if (min < firstChannel || max < min || max > lastChannel) return { kind: 'unusable' }
  if (nfft < 1 || nfft > 65536 || lowest < 0 || highest < lowest) return { kind: 'unusable' }
  const range = startSeconds === null || endSeconds === null ? null : { startSeconds, endSeconds }
  return {
    kind: 'valid',
    value: {
      kind: range === null ? 'live' : 'historic',
      channels: { min, max },
      frequencies: { min: lowest, max: highest },
      nfft,
      viewType,
      range,
    },
  }
}

/** Reads the body of `POST /recordings_in_time_range`. */
export function readTimeRange(text: string, contentType: string | undefined): Body<TimeRange> {
  const fields = new Fields(text, contentType)
  const startSeconds = fields.integer(['start_time'])
  const endSeconds = fields.integer(['end_time'])
  if (fields.faults.length > 0) return { kind: 'invalid', detail: fields.faults }
  return { kind: 'valid', value: { startSeconds, endSeconds } }
}

/** Whether a value is a JSON object. */
export function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

type Found = { readonly value: unknown } | 'absent' | 'faulty'

/** Extracts integers from a body and collects the faults that pydantic would report, each fault once. */
class Fields {
  readonly faults: ValidationFault[] = []
  readonly #body: unknown

  constructor(text: string, contentType: string | undefined) {
    if (text === '') {
      this.#addFault('missing', [], 'Field required', null)
    } else if (contentType !== undefined && !/^application\/([\w.-]+\+)?json\b/i.test(contentType)) {
      this.#body = text
    } else {
      try {
        this.#body = JSON.parse(text)
      } catch {
        this.faults.push({
          type: 'json_invalid',
          loc: ['body', 0],
          msg: 'JSON decode error',
          input: {},
          ctx: { error: 'Expecting value' },
        })
      }
    }
  }

  /** The integer at this path. Without one, records a fault and returns 0, so callers must check `faults` first. */
  integer(path: readonly string[]): number {
    const found = this.#find(path, true)
    return typeof found === 'object' ? this.#toInteger(found.value, path) : 0
  }

  /** The integer at this path, or null if the field is missing or null. */
  optionalInteger(path: readonly string[]): number | null {
    const found = this.#find(path, false)
    return typeof found === 'object' && found.value !== null ? this.#toInteger(found.value, path) : null
  }

  #find(path: readonly string[], required: boolean): Found {
    let value = this.#body
    // A body that could not be parsed already has its one fault.
    if (value === undefined) return 'faulty'
    for (const [depth, name] of path.entries()) {
      const parent = path.slice(0, depth)
      if (!isObject(value)) {
        if (!required && value === null && depth > 0) return 'absent'
        const message = 'Input should be a valid dictionary or object to extract fields from'
        this.#addFault('model_attributes_type', parent, message, value)
        return 'faulty'
      }
      if (!Object.hasOwn(value, name)) {
        if (required) this.#addFault('missing', [...parent, name], 'Field required', value)
        return 'absent'
      }
      value = value[name]
    }
    return { value }
  }

  #toInteger(value: unknown, path: readonly string[]): number {
    // Like pydantic, accept "5" as 5.
    const number = typeof value === 'string' && /^\s*[+-]?\d+\s*$/.test(value) ? Number(value) : value
    if (typeof number === 'number' && Number.isSafeInteger(number)) return number
    const type = typeof value === 'string' ? 'int_parsing' : 'int_type'
    this.#addFault(type, path, 'Input should be a valid integer', value)
    return 0
  }

  #addFault(type: string, path: readonly string[], msg: string, input: unknown): void {
    const loc = ['body', ...path]
    if (!this.faults.some(fault => fault.loc.join() === loc.join()))
      this.faults.push({ type, loc, msg, input })
  }
}
