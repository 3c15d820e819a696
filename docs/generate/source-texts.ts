import { relative } from 'node:path'
import {
  type CallExpression,
  type Expression,
  type Identifier,
  isBlock,
  isCallExpression,
  isCaseClause,
  isConditionalExpression,
  isElementAccessExpression,
  isIdentifier,
  isNoSubstitutionTemplateLiteral,
  isNumericLiteral,
  isPropertyAccessExpression,
  isSourceFile,
  isStringLiteral,
  isTemplateExpression,
  isVariableStatement,
  type Node,
} from 'typescript/unstable/ast'
import { API, type Project, SymbolFlags, type Type } from 'typescript/unstable/sync'
import { LOG_LEVELS } from '../../src/domain/vocabulary.js'
import { root } from './repository.js'

/** A call in `src/` that writes a line of the log. A part of a text that is not literal is `…`. */
export type LogCall = {
  readonly file: string
  readonly levels: readonly string[]
  readonly messages: readonly string[]
  /** The members of the line; one that may be missing ends with `?`. */
  readonly fields: readonly string[]
}

/** A call in `src/` that sends an error. */
export type ErrorCall = {
  readonly file: string
  readonly statusCode: string
  readonly messages: readonly string[]
}

/** Functions of `server/error-response` that send an error, and how many arguments come before its status. */
const ERROR_FUNCTIONS: ReadonlyMap<string, number> = new Map([
  ['errorResponse', 1],
  ['sendError', 1],
  ['rawError', 0],
])

/** Reads every call in `src/` that writes a log line or sends an error. */
export function readSource(): {
  readonly logCalls: readonly LogCall[]
  readonly errorCalls: readonly ErrorCall[]
} {
  const api = new API({ cwd: root })
  try {
    const config = `${root}tsconfig.build.json`
    const project = api.updateSnapshot({ openProjects: [config] }).getProject(config)
    if (project === undefined) throw new Error('the compiler cannot open tsconfig.build.json')
    const calls = callsIn(project)
    return {
      logCalls: calls.flatMap(call => logCallOf(project, call)),
      errorCalls: calls.flatMap(call => errorCallOf(call)),
    }
  } finally {
    api.close()
  }
}

function callsIn({ program }: Project): readonly CallExpression[] {
  const calls: CallExpression[] = []
  const visit = (node: Node): void => {
    if (isCallExpression(node)) calls.push(node)
    node.forEachChild(visit)
  }
  for (const name of program.getSourceFileNames()) {
    if (!name.startsWith(`${root}src/`)) continue
    const file = program.getSourceFile(name)
    if (file !== undefined) visit(file)
  }
  return calls
}

function logCallOf(project: Project, call: CallExpression): readonly LogCall[] {
  const { checker } = project
  const callee = call.expression
  const isProperty = isPropertyAccessExpression(callee)
  if (!isProperty && !isElementAccessExpression(callee)) return []
  const levels = isProperty ? [callee.name.text] : (textsOf(callee.argumentExpression) ?? [])
  if (levels.length === 0 || !levels.every(level => LOG_LEVELS.some(known => known === level))) return []
  const receiver = checker.getTypeAtLocation(callee.expression)
  if (receiver === undefined || !/Logger/.test(checker.typeToString(receiver))) return []
  const message = call.arguments.at(-1)
  const fields = call.arguments.length > 1 ? call.arguments[0] : undefined
  const messages = message && textsOf(message)
  if (messages === undefined)
    throw new Error(`${placeOf(call)}: the message of the log line is not a literal text`)
  const type = fields && checker.getTypeAtLocation(fields)
  return [
    { file: fileOf(call), levels, messages, fields: type === undefined ? [] : membersOf(project, type) },
  ]
}

function errorCallOf(call: CallExpression): readonly ErrorCall[] {
  const { expression } = call
  const before = isIdentifier(expression) ? ERROR_FUNCTIONS.get(expression.text) : undefined
  if (before === undefined) return []
  const [status, , message] = call.arguments.slice(before)
  const codes = status && textsOf(status)
  const messages = message && textsOf(message)
  if (codes === undefined || messages === undefined) {
    throw new Error(`${placeOf(call)}: the status or the message of the error is not literal`)
  }
  return codes.map(statusCode => ({ file: fileOf(call), statusCode, messages }))
}

/** The texts that an expression may evaluate to; undefined if it does not consist of literals. */
function textsOf(expression: Expression): readonly string[] | undefined {
  if (
    isStringLiteral(expression) ||
    isNoSubstitutionTemplateLiteral(expression) ||
    isNumericLiteral(expression)
  ) {
    return [expression.text]
  }
  if (isConditionalExpression(expression)) {
    const [one, other] = [textsOf(expression.whenTrue), textsOf(expression.whenFalse)]
    return one && other && [...one, ...other]
  }
  if (isTemplateExpression(expression)) {
    const spans = expression.templateSpans.map(span => textIn(span.expression) + span.literal.text)
    return [expression.head.text + spans.join('')]
  }
  const initializer = isIdentifier(expression) ? initializerOf(expression) : undefined
  return initializer && textsOf(initializer)
}

/** The literal that is inserted into a text, or `…` for anything else. */
function textIn(expression: Expression): string {
  const texts = isIdentifier(expression) ? textsOf(expression) : undefined
  return texts?.length === 1 ? (texts[0] ?? '…') : '…'
}

/** The initial value of the variable with this name, declared in the nearest block. */
function initializerOf(name: Identifier): Expression | undefined {
  for (let node: Node = name; node.parent !== undefined; node = node.parent) {
    const { parent } = node
    if (!isBlock(parent) && !isSourceFile(parent) && !isCaseClause(parent)) continue
    for (const statement of parent.statements) {
      if (!isVariableStatement(statement)) continue
      for (const declaration of statement.declarationList.declarations) {
        if (isIdentifier(declaration.name) && declaration.name.text === name.text)
          return declaration.initializer
      }
    }
  }
  return undefined
}

function membersOf({ checker }: Project, type: Type): readonly string[] {
  const kinds = type.isUnionType() ? type.getTypes() : [type]
  const lists = kinds.map(kind => checker.getPropertiesOfType(kind).map(({ name }) => name))
  const isOptional = (name: string) =>
    lists.some(names => !names.includes(name)) ||
    kinds.some(kind =>
      checker.getPropertiesOfType(kind).some(each => each.name === name && isMarkedOptional(each)),
    )
  return [...new Set(lists.flat())].map(name => (isOptional(name) ? `${name}?` : name))
}

function isMarkedOptional(symbol: { readonly flags: number }): boolean {
  return (symbol.flags & SymbolFlags.Optional) !== 0
}

function fileOf(node: Node): string {
  return relative(`${root}src`, node.getSourceFile().fileName).replaceAll('\\', '/')
}

function placeOf(node: Node): string {
  const file = node.getSourceFile()
  const line = file.text.slice(0, node.getStart()).split('\n').length
  return `src/${fileOf(node)}:${line}`
}
