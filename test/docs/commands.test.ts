import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { parseAllDocuments } from 'yaml'
import { FILE_VARIABLE } from '../../src/config/load.js'
import { describe } from '../../src/config/options.js'
import { type Block, type Document, documentOf, documents, filesOf } from '../support/documents.js'
import { at, repositoryRoot, requireOrSkip } from '../support/harness.js'

const read = (path: string) => readFileSync(join(repositoryRoot, path), 'utf8')

/** The changelog mentions names that no longer exist. */
const all = documents().filter(({ path }) => path !== 'CHANGELOG.md')
const reference = (name: string) => {
  const path = `docs/reference/${name}.md`
  return documentOf(path, read(path))
}

const BASH = ['bash', 'sh', 'console', 'shell']
/** The first word of a block of commands without a language, which works in every shell. */
const PROGRAM =
  /^(?:[A-Z_]+=\S+ )*(?:npm|npx|node|docker|podman|curl|pip|python3?|git|kubectl|helm|focus-breaker|pytest) /
const WINDOWS = ['powershell', 'pwsh', 'cmd', 'bat']
/** The documents that say that a curl command works in each shell, with `curl.exe` in place of `curl` on Windows. */
const FOR_EACH_SHELL = ['README.md', 'docs/tutorial.md']

/** A fault in a block, with its location. */
type Fault = { readonly line: number; readonly words: string }

/** The faults in the blocks of these languages. */
function faultsIn(
  documents: readonly Document[],
  languages: readonly string[],
  faultOf: (block: Block) => string | undefined,
): readonly string[] {
  return documents.flatMap(({ path, blocks }) =>
    blocks
      .filter(({ language, text }) =>
        languages.includes(language === '' && PROGRAM.test(text) ? 'bash' : language),
      )
      .flatMap((block): readonly Fault[] => {
        const words = faultOf(block)
        return words === undefined ? [] : [{ line: block.line, words }]
      })
      .map(({ line, words }) => `${path}:${line}: ${words}`),
  )
}

/** Why bash does not parse a block. In a console block, commands follow `$ `, and their output is between them. */
function bashFault({ language, text }: Block): string | undefined {
  const isConsole = language === 'console'
  const commands = text
    .split('\n')
    .flatMap(line => (line.startsWith('$ ') ? [line.slice(2)] : isConsole ? [] : [line]))
  const { status, stderr } = spawnSync('bash', ['-n'], { input: commands.join('\n'), encoding: 'utf8' })
  return status === 0 ? undefined : stderr.trim()
}

function yamlFault({ text }: Block): string | undefined {
  const parsed = parseAllDocuments(text)
  if ('empty' in parsed) return 'an empty document'
  return parsed.flatMap(({ errors }) => errors).map(({ message }) => message.split('\n')[0])[0]
}

/** Syntax that bash, PowerShell 5.1 and cmd interpret differently. */
function shellFault(text: string): string | undefined {
  if (/\\$/m.test(text)) return 'only bash continues a line with a backslash'
  if (/&&|\|\||&$/m.test(text)) return 'PowerShell 5.1 has no &&, || or &'
  if (/^[A-Z_]+=\S* /m.test(text)) return 'only bash sets a variable in front of a command'
  if (/'[^'\n]*[ "][^'\n]*'/.test(text.replace(/"[^"\n]*"/g, '""')))
    return 'cmd does not quote with single quotes'
  if (/\$\w/.test(text)) return 'cmd does not replace $NAME'
  if (/(?<=\s)@/.test(text)) return 'PowerShell reads @ at the start of a word as an operator'
  if (/ #/.test(text)) return 'cmd has no comments behind a command'
  return undefined
}

/** Syntax that PowerShell 5.1 or cmd interprets differently. */
function windowsFault({ language, text }: Block): string | undefined {
  const isCmd = language === 'cmd' || language === 'bat'
  if (/&&|\|\|/.test(text) && !isCmd) return 'PowerShell 5.1 has neither && nor ||'
  if (/\\$/m.test(text)) return 'a backslash does not continue a line'
  if (/(?<![\w.])curl(?!\.exe)\b/.test(text) && !isCmd)
    return 'curl is another command in PowerShell 5.1: curl.exe'
  if (/curl\.exe[^\n]*'[^'\n]*"[^'\n]*'/.test(text))
    return 'PowerShell 5.1 takes the double quotes inside single ones away'
  if (!isCmd && /(?<=\bcurl\.exe [^\n]*\s)@/.test(text))
    return 'PowerShell reads @ at the start of a word as an operator'
  if (isCmd && /^ *set \w+=["']/im.test(text)) return 'in cmd the quotes become part of the value'
  if (isCmd && /'[^'\n]*[ "][^'\n]*'/.test(text)) return 'cmd does not quote with single quotes'
  return undefined
}

test('every bash block parses', t => {
  if (!requireOrSkip(t, 'bash')) return
  assert.deepEqual(faultsIn(all, BASH, bashFault), [])
})

test('every YAML block parses', () => {
  assert.deepEqual(faultsIn(all, ['yaml', 'yml'], yamlFault), [])
})

test('no block for Windows uses syntax that PowerShell 5.1 or cmd does not understand', () => {
  assert.deepEqual(faultsIn(all, WINDOWS, windowsFault), [])
  const faulty: readonly (readonly [language: string, text: string])[] = [
    ['powershell', 'npm ci && npm start'],
    ['powershell', 'curl.exe -X PUT \\\n  http://x/'],
    ['powershell', `curl.exe -d '{"a":1}' http://x/`],
    ['powershell', 'curl http://x/'],
    ['powershell', 'curl.exe -d @a.json http://x/'],
    ['cmd', `curl -d '{"a":1}' http://x/`],
    ['cmd', `set A='b'`],
  ]
  for (const [language, text] of faulty) {
    assert.ok(windowsFault({ language, text, line: 1 }) !== undefined, `${language}: ${text}`)
  }
  assert.equal(
    windowsFault({ language: 'cmd', text: 'npm ci && curl -d "{\\"a\\":1}" http://x/', line: 1 }),
    undefined,
  )
})

test('a command that is shown for each shell has only what each of them understands', () => {
  const isForEach = ({ path }: Document, { language, text }: Block) =>
    language === '' ? PROGRAM.test(text) : FOR_EACH_SHELL.includes(path) && /^curl /.test(text)
  const shown = all.flatMap(document =>
    document.blocks
      .filter(block => isForEach(document, block))
      .map(block => ({ place: `${document.path}:${block.line}`, fault: shellFault(block.text) })),
  )
  assert.ok(shown.length > 10, `only ${shown.length} blocks were found`)
  assert.deepEqual(
    shown.flatMap(({ place, fault }) => (fault === undefined ? [] : [`${place}: ${fault}`])),
    [],
  )
  for (const text of [
    'npm ci && npm start',
    'npm start &',
    'A=1 npm start',
    'curl -s \\\n  http://x/',
    "curl -s -H 'A: b' http://x/",
    'curl -s -d @a.json http://x/',
    'curl -s -H "A: $TOKEN" http://x/',
    'npm ci   # once',
  ])
    assert.ok(shellFault(text) !== undefined, text)
  for (const text of [
    'curl -s -d "@a.json" http://x/',
    `node -e "process.kill(1, 'SIGHUP')"`,
    'npm i "@a/b@1.0.0"',
  ])
    assert.equal(shellFault(text), undefined, text)
})

test('every block names its language, unless it has commands for each shell', () => {
  assert.deepEqual(
    all.flatMap(({ path, blocks }) =>
      blocks
        .filter(({ language, text }) => language === '' && !PROGRAM.test(text))
        .map(({ line }) => `${path}:${line}`),
    ),
    [],
  )
})

const METRIC = /\bfocus_breaker_[a-z_]*[a-z]\b/g

/**
 * The flags of each command, from `docs/reference/command-line.md`, which is generated; `''` has those of all commands.
 */
function commandLine(): ReadonlyMap<string, ReadonlySet<string>> {
  const { text } = reference('command-line')
  const flags = new Map<string, Set<string>>()
  const [overview = '', ...sections] = text.split(/^## /m)
  for (const section of sections) {
    const [, name = ''] = /^`focus-breaker ([a-z]+)`/.exec(section) ?? []
    flags.set(
      name,
      new Set(['--help', ...[...section.matchAll(/^ {2}(--[a-z-]+)/gm)].map(([, flag = '']) => flag)]),
    )
  }
  const shared = [...overview.matchAll(/(?<![\w-])--[a-z-]+/g)].map(([flag]) => flag)
  // Without a command it is `serve` or `demo`.
  return flags.set('', new Set([...shared, '--version', '--help', ...(flags.get('serve') ?? [])]))
}

/** A call of the program within a line, by one of its commands. */
const CALL = new RegExp(
  `(?:npm(?:\\.cmd)? start --|node dist/cli/main\\.js) [a-z-]|(?:^|[\\s/])focus-breaker (?:${[...commandLine().keys()].filter(name => name !== '').join('|')}) `,
)

/** The wrong calls of the program in a text, each with its fault. */
function wrongCalls(text: string): readonly string[] {
  const commands = commandLine()
  const lines = text
    .replace(/\s*\\\n\s*/g, ' ')
    .replace(/(?:npm(?:\.cmd)? start --|node dist\/cli\/main\.js) (?=[a-z-])/g, 'focus-breaker ')
    .split('\n')
  return lines.flatMap(line =>
    [
      ...line.matchAll(/(?<![\w/@.:"'-])(?:\S*\/(?:\.bin|bin)\/)?focus-breaker (?=[a-z-])([^|;&#)`]*)/g),
    ].flatMap(([call, rest = '']) => {
      const words = rest.trim().split(/\s+/)
      const command = words[0]?.startsWith('-') ? '' : (words[0] ?? '')
      const flags = commands.get(command)
      if (flags === undefined) return command === 'help' ? [] : [`${call.trim()}: no such command`]
      return words
        .filter(word => word.startsWith('-') && word !== '-')
        .map(word => word.replace(/=.*$/, '').replace(/[,.:"']+$/, ''))
        .filter(flag => !flags.has(flag) && !['-h', '-v'].includes(flag))
        .map(flag => `${call.trim()}: no such flag: ${flag}`)
    }),
  )
}

test('every call of focus-breaker in a document names an existing command and its flags', () => {
  // Some log messages start with the name of the program.
  const wrong = all
    .filter(({ path }) => path !== 'docs/reference/log.md')
    .flatMap(({ path, prose, blocks }) => {
      const spans = [...prose.matchAll(/`([^`\n]*)`/g)]
        .map(([, span = '']) => span)
        .filter(span => span.startsWith('focus-breaker ') || CALL.test(span))
      const commands = blocks
        .filter(({ language }) => [...BASH, ...WINDOWS, '', 'yaml', 'ini'].includes(language))
        // Output may mention the program.
        .flatMap(({ text }) =>
          text
            .replace(/\s*\\\n\s*/g, ' ')
            .split('\n')
            .filter(line => /^(?:\$ )?(?:\S*\/)?focus-breaker [a-z-]/.test(line) || CALL.test(line)),
        )
      return [...spans, ...commands].flatMap(wrongCalls).map(fault => `${path}: ${fault}`)
    })
  assert.deepEqual(wrong, [])
  assert.deepEqual(
    wrongCalls(
      'focus-breaker serv\nfocus-breaker wait --timeout 10m\nfocus-breaker check \\\n  --proxi http://x',
    ),
    ['focus-breaker serv: no such command', 'focus-breaker check --proxi http://x: no such flag: --proxi'],
  )
  for (const call of [
    'node dist/cli/main.js wait --proxi x',
    'npm.cmd start -- wait --proxi x',
    'kubectl exec a -- focus-breaker wait --proxi x',
    'ExecStart=/opt/bin/focus-breaker serve --confg x',
  ]) {
    assert.ok(CALL.test(call), call)
    assert.equal(wrongCalls(call).length, 1, call)
  }
})

test('every npm script that a document names exists', () => {
  const manifest: unknown = JSON.parse(read('package.json'))
  const missing = (text: string) =>
    [...text.matchAll(/\bnpm run (?:-s |--silent )?([\w:-]+)/g)]
      .map(([, name = '']) => name)
      .filter(name => at(manifest, 'scripts', name) === undefined)
  assert.deepEqual(
    all.flatMap(({ path, text }) => missing(text).map(name => `${path}: ${name}`)),
    [],
  )
  assert.deepEqual(missing('npm run check, npm run -s chekc, `npm run test:al`'), ['chekc', 'test:al'])
})

test('every metric that a document names exists', () => {
  // Options of pytest begin with the same word.
  const known = new Set(
    [
      reference('metrics').text,
      ...filesOf(/\.py$/)
        .filter(path => path.startsWith('clients/python/'))
        .map(read),
    ].flatMap(text => text.match(METRIC) ?? []),
  )
  const wrong = (text: string) =>
    (text.match(METRIC) ?? []).filter(
      name => !known.has(name) && !known.has(name.replace(/_(?:bucket|sum|count)$/, '')),
    )
  assert.deepEqual(
    all.flatMap(({ path, text }) => wrong(text).map(name => `${path}: ${name}`)),
    [],
  )
  assert.deepEqual(
    wrong(
      'focus_breaker_refusals_total focus_breaker_circuit_state focus_breaker_probe_duration_seconds_sum',
    ),
    ['focus_breaker_refusals_total'],
  )
})

/** JSON members by their paths, whole or partial: `circuit.since`, for example, is not an option. */
const members = new Set(
  ['http-api', 'events'].flatMap(name =>
    [...reference(name).text.matchAll(/^\| `([\w.[\]]+)`/gm)].flatMap(([, path = '']) => {
      const keys = path.replaceAll('[]', '').split('.')
      return keys.map((_, index) => keys.slice(index).join('.'))
    }),
  ),
)

const options = describe()
const optionNames = new Set([...options.options, ...options.sections].map(({ name }) => name))
const topNames = new Set([...optionNames].map(name => name.split('.')[0] ?? ''))

/** Names in code that look like an option but are not. */
function wrongOptions(text: string): readonly string[] {
  return [...text.matchAll(/`([a-z]+[A-Za-z]*(?:\.[a-z][A-Za-z]*)+)(?::[^`]*)?`/g)].flatMap(
    ([, name = '']) => {
      const [top = ''] = name.split('.')
      if (!topNames.has(top) || optionNames.has(name) || members.has(name)) return []
      // A kind of notification, or a file.
      if (
        /^(?:override|outage)\.\w+$/.test(name) ||
        /\.(?:md|ts|js|py|ya?ml|json|log|conf|service|key|crt|pem|yaml)$/.test(name)
      )
        return []
      // Below an option that takes an object.
      return [...optionNames].some(option => option !== top && name.startsWith(`${option}.`)) ? [] : [name]
    },
  )
}

test('every option that a document names exists', () => {
  assert.deepEqual(
    all.flatMap(({ path, prose }) => wrongOptions(prose).map(name => `${path}: ${name}`)),
    [],
  )
  assert.deepEqual(wrongOptions('`guard.mode`, `guard.mood`, `circuit.since`, `upstream.urls: x`, `a.b`'), [
    'guard.mood',
    'upstream.urls',
  ])
})

test('every FOCUS_BREAKER_ variable that a document names is one of an option, or of a client', () => {
  const variable = /\bFOCUS_BREAKER_[A-Z0-9_]*[A-Z0-9]\b/g
  const known = new Set([
    FILE_VARIABLE,
    ...options.options.map(option => option.variable),
    ...filesOf(/\.(?:ts|py)$/)
      .filter(path => /^(?:src|clients\/python\/src)\//.test(path))
      .flatMap(path => read(path).match(variable) ?? []),
  ])
  const wrongVariables = (text: string) => (text.match(variable) ?? []).filter(name => !known.has(name))
  assert.deepEqual(
    all.flatMap(({ path, text }) => wrongVariables(text).map(name => `${path}: ${name}`)),
    [],
  )
  assert.deepEqual(wrongVariables('FOCUS_BREAKER_UPSTREAM_URL FOCUS_BREAKER_UPSTREAM_URI'), [
    'FOCUS_BREAKER_UPSTREAM_URI',
  ])
})

/** The routes of the proxy, from `docs/reference/http-api.md`, which is generated. */
const routes = [...reference('http-api').text.matchAll(/^## `[A-Z]+ (\S+)`$/gm)].map(([, path = '']) => path)

/** The example in CONTRIBUTING.md of how to add a route. */
const EXAMPLE_ROUTE = '/-/about'

/** The routes in a text that do not exist. The part of a route before its parameter may be named, too. */
function wrongRoutes(text: string): readonly string[] {
  const isKnown = (path: string) =>
    routes.some(route => {
      const [fixed = '', parameter] = route.split('{')
      return path === route || (parameter !== undefined && `${path}/`.startsWith(fixed))
    })
  return [...text.matchAll(/(?<![\w%])\/-\/[\w/.-]*/g)]
    .map(([path]) => path.replace(/\.+$/, ''))
    .filter(path => path !== EXAMPLE_ROUTE && !isKnown(path) && !isKnown(path.replace(/\/$/, '')))
}

test('every route of the proxy that a document names exists', () => {
  assert.ok(routes.length > 15, `only ${routes.length} routes were found`)
  assert.deepEqual(
    all.flatMap(({ path, text }) => wrongRoutes(text).map(route => `${path}: ${route}`)),
    [],
  )
  assert.deepEqual(
    wrongRoutes('`/-/`, `/-/fiber`, `/-/runs/<id>`, `/-/outages/x`, `/-/fibre`, http://x/-/state?a'),
    ['/-/fibre'],
  )
})
