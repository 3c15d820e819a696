import { ConfigSchema } from './schema.js'

/** One option: its dotted name, the name of its environment variable, and its part of the schema. */
export type Option = {
  readonly name: string
  readonly variable: string
  readonly schema: OptionSchema
}

/** The parts of an option's schema that are used outside validation. */
export type OptionSchema = {
  readonly type?: string
  readonly description?: string
  readonly default?: unknown
  readonly enum?: readonly unknown[]
  readonly minimum?: number
  readonly maximum?: number
  readonly expected?: string
  readonly pattern?: string
  readonly format?: string
  readonly required?: readonly string[] | undefined
  readonly secret?: boolean
  readonly anyOf?: readonly unknown[]
  readonly items?: OptionSchema
  readonly properties?: Readonly<Record<string, OptionSchema>>
}

/** A group of options by its dotted name; '' is the whole configuration. */
export type Section = { readonly name: string; readonly schema: OptionSchema }

/** All options and sections, in the order of the schema. */
export function describe(schema: OptionSchema = ConfigSchema): {
  readonly options: readonly Option[]
  readonly sections: readonly Section[]
} {
  const options: Option[] = []
  const sections: Section[] = []
  const visit = (name: string, part: OptionSchema) => {
    if (part.properties === undefined) {
      options.push({ name, variable: variableOf(name), schema: part })
      return
    }
    sections.push({ name, schema: part })
    for (const [key, member] of Object.entries(part.properties)) {
      visit(name === '' ? key : `${name}.${key}`, member)
    }
  }
  visit('', schema)
  return { options, sections }
}

/** `upstream.connectTimeoutMs` → `FOCUS_BREAKER_UPSTREAM_CONNECT_TIMEOUT_MS`. */
function variableOf(name: string): string {
  return `FOCUS_BREAKER_${name.replace(/([a-z0-9])([A-Z])/g, '$1_$2').replaceAll('.', '_')}`.toUpperCase()
}

/** The values that an option accepts, for people: "a whole number from 1 to 5". */
export function expectation(schema: OptionSchema): string {
  if (schema.expected !== undefined) return schema.expected
  if (schema.enum !== undefined) return `one of ${schema.enum.join(', ')}`
  switch (schema.type) {
    case 'integer':
      return `a whole number from ${schema.minimum} to ${schema.maximum}`
    case 'number':
      return `a number from ${schema.minimum} to ${schema.maximum}`
    case 'boolean':
      return 'true or false'
    case 'array':
      return schema.items === undefined ? 'a list' : `a list: ${expectation(schema.items)}`
    case 'string':
      return 'text that is not empty'
    default:
      return 'a group of options'
  }
}
