import { table } from './markdown.js'

type Json = Readonly<Record<string, unknown>>

/** One operation of the description. */
type Operation = { readonly method: string; readonly path: string; readonly it: Json }

/** `docs/reference/http-api.md`, from the document of `/-/openapi.json`. */
export function httpApiPage(description: unknown): string {
  const operations = operationsOf(description)
  const [first] = operations
  if (first === undefined) throw new Error('/-/openapi.json describes no route')
  return `# HTTP API

Generated from \`/-/openapi.json\` by \`npm run docs\`.

All routes of the proxy are below \`/-/\`, and with \`basePath\` also below \`<basePath>/-/\`. Every other path belongs to
focus-server. A \`?\` marks a member that may be missing. All times are RFC 3339 in UTC.

${operations.map(sectionOf).join('\n')}
## Refusals and errors

Every route may also respond with an error. \`/-/fiber\`, \`/-/wait\` and \`/-/decision\` respond with the refusal of a
guarded request: with the status \`guard.statusCode\` (503), and as one line for \`Accept: text/plain\`.
[Responses](responses.md) lists every status and message.

${responseTables(at(first.it, 'responses', 'default'))}`
}

function operationsOf(description: unknown): readonly Operation[] {
  return entries(at(description, 'paths'))
    .flatMap(([path, methods]) =>
      entries(methods).flatMap(([method, it]) =>
        isObject(it) ? [{ method: method.toUpperCase(), path, it }] : [],
      ),
    )
    .sort((a, b) => a.path.localeCompare(b.path, 'en') || a.method.localeCompare(b.method, 'en'))
}

function sectionOf({ method, path, it }: Operation): string {
  const lines = [`## \`${method} ${path}\``, '', String(it.summary)]
  if (it.description !== undefined) lines.push('', String(it.description))
  if (it.security !== undefined) lines.push('', 'Requires `Authorization: Bearer` with `admin.token`.')
  const parameters = Array.isArray(it.parameters) ? it.parameters : []
  if (parameters.length > 0) {
    const rows = parameters.map(parameter => {
      const [name = '', where = '', what = '', example = ''] = ['name', 'in', 'description', 'example'].map(
        key => String(at(parameter, key) ?? ''),
      )
      return [`\`${name}\``, where, what, example === '' ? '' : `\`${example}\``]
    })
    lines.push('', table(['Parameter', 'In', 'Description', 'Example'], rows))
  }
  const taken = memberTable(at(it.requestBody, 'content', 'application/json', 'schema'))
  if (taken !== '') lines.push('', '**Body** `application/json`', '', taken)
  for (const [status, response] of entries(it.responses)) {
    if (status === 'default') continue
    const types = entries(at(response, 'content')).map(([type]) => `\`${type}\``)
    lines.push('', `**${status}**${types.length === 0 ? ': no body' : ` ${types.join(', ')}`}`)
    const members = responseTables(response)
    if (members !== '') lines.push('', members.trimEnd())
  }
  return `${lines.join('\n')}\n`
}

/** The members of a response; each kind of response has a table of its own. */
function responseTables(response: unknown): string {
  return entries(at(response, 'content'))
    .flatMap(([, content]) => {
      const schema = at(content, 'schema')
      const kinds = at(schema, 'anyOf')
      return Array.isArray(kinds) ? kinds : [schema]
    })
    .map(schema => ({ title: at(schema, 'title'), members: memberTable(schema) }))
    .filter(({ members }) => members !== '')
    .map(({ title, members }) => (title === undefined ? `${members}\n` : `### ${title}\n\n${members}\n`))
    .join('\n')
}

/** A table of the members of a JSON object; '' if it has none. */
export function memberTable(schema: unknown): string {
  const rows = membersOf(schema, '')
  if (rows.length === 0) return ''
  const isDescribed = rows.some(([, , description]) => description !== '')
  return isDescribed
    ? table(['Member', 'Type', 'Description'], rows)
    : table(
        ['Member', 'Type'],
        rows.map(row => row.slice(0, 2)),
      )
}

/** A row for each member, and for those below it. */
function membersOf(schema: unknown, above: string): readonly (readonly string[])[] {
  const needed = at(schema, 'required')
  return entries(at(schema, 'properties')).flatMap(([name, member]) => {
    const isNeeded = Array.isArray(needed) && needed.includes(name)
    const path = `${above}${name}`
    const description = String(at(member, 'description') ?? '')
    return [[`\`${path}\`${isNeeded ? '' : '?'}`, typeOf(member), description], ...membersBelow(member, path)]
  })
}

function membersBelow(schema: unknown, path: string): readonly (readonly string[])[] {
  const kinds = at(schema, 'anyOf')
  if (Array.isArray(kinds)) return kinds.flatMap(kind => membersBelow(kind, path))
  if (at(schema, 'type') === 'array') return membersBelow(at(schema, 'items'), `${path}[]`)
  return membersOf(schema, `${path}.`)
}

function typeOf(schema: unknown): string {
  const kinds = at(schema, 'anyOf')
  if (Array.isArray(kinds)) return kinds.map(typeOf).join(' or ')
  const values = at(schema, 'enum')
  if (Array.isArray(values)) return values.map(value => `\`${value}\``).join(', ')
  const only = at(schema, 'const')
  if (only !== undefined) return `\`${only}\``
  const type = String(at(schema, 'type') ?? 'any')
  if (type === 'array') return `list of ${typeOf(at(schema, 'items'))}`
  return at(schema, 'format') === 'date-time' ? 'time' : type
}

function entries(value: unknown): readonly (readonly [string, unknown])[] {
  return isObject(value) ? Object.entries(value) : []
}

/** The value below these keys, or undefined. */
function at(value: unknown, ...keys: readonly string[]): unknown {
  let found = value
  for (const key of keys) found = isObject(found) ? found[key] : undefined
  return found
}

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
