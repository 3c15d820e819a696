import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { explain, type Fault, withoutCredentials } from '../../src/config/fault.js'
import { type Loaded, load, masked } from '../../src/config/load.js'
import { describe } from '../../src/config/options.js'
import type { Config } from '../../src/config/schema.js'
import { at, requireOrSkip } from '../support/harness.js'

const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-config-'))
after(() => rmSync(directory, { recursive: true }))

const UPSTREAM = { FOCUS_BREAKER_UPSTREAM_URL: 'http://focus-server:5000' }
const TOKEN = 'correct-horse-battery'
const MASK = '********'

let files = 0

/** A file in a directory that is removed after the tests. */
function write(text: string | Buffer): string {
  files += 1
  const file = join(directory, `${files}.yaml`)
  writeFileSync(file, text)
  return file
}

type Given = {
  readonly yaml?: string
  readonly env?: Readonly<Record<string, string>>
  readonly flags?: Readonly<Record<string, string>>
}

/** Loads a file with this text, this environment, and these flags by option name. */
function loadFrom({ yaml, env = {}, flags = {} }: Given): Loaded {
  return load({
    ...(yaml !== undefined && { file: write(yaml) }),
    environment: env,
    flags: new Map(Object.entries(flags).map(([name, value]) => [name, { flag: `--${name}`, value }])),
  })
}

function configOf(given: Given): Config {
  const loaded = loadFrom(given)
  assert.ok(loaded.ok, loaded.ok ? '' : explain(loaded.faults))
  return loaded.config
}

function faultsOf(given: Given): readonly Fault[] {
  const loaded = loadFrom(given)
  assert.ok(!loaded.ok, 'no fault was found')
  return loaded.faults
}

/** The faults as lines `option: expected; given`. With an option, only the line number of the file is given. */
function linesOf(given: Given): readonly string[] {
  return faultsOf(given).map(({ option, source, expected, given }) => {
    const place = source.replace(directory, '').replace(/^\/\d+\.yaml/, 'file')
    const where = [option === '' ? place : place.replace(/^(file:\d+):\d+$/, '$1'), option]
    return `${where.filter(part => part !== '').join(' ')}: ${expected}; ${given}`
  })
}

const PRECEDENCE: readonly {
  readonly option: string
  readonly variable: string
  readonly initial: unknown
  readonly yaml: string
  readonly inFile: unknown
  readonly text: string
  readonly inEnvironment: unknown
  readonly flag: string
  readonly inFlag: unknown
}[] = [
  {
    ...{ option: 'server.host', variable: 'SERVER_HOST', initial: '0.0.0.0' },
    ...{ yaml: 'server: {host: one}', inFile: 'one', text: '127.0.0.1', inEnvironment: '127.0.0.1' },
    ...{ flag: '8080', inFlag: '8080' },
  },
  {
    ...{ option: 'server.port', variable: 'SERVER_PORT', initial: 8080 },
    ...{ yaml: 'server: {port: 1}', inFile: 1, text: '2', inEnvironment: 2, flag: '3', inFlag: 3 },
  },
  {
    ...{ option: 'probe.periodMs', variable: 'PROBE_PERIOD_MS', initial: 2000 },
    ...{
      yaml: 'probe:\n  periodMs: 100',
      inFile: 100,
      text: '2e2',
      inEnvironment: 200,
      flag: '300',
      inFlag: 300,
    },
  },
  {
    ...{
      option: 'upstream.tls.insecureSkipVerify',
      variable: 'UPSTREAM_TLS_INSECURE_SKIP_VERIFY',
      initial: false,
    },
    ...{
      yaml: 'upstream: {tls: {insecureSkipVerify: true}}',
      inFile: true,
      text: 'false',
      inEnvironment: false,
    },
    ...{ flag: 'true', inFlag: true },
  },
  {
    ...{ option: 'log.level', variable: 'LOG_LEVEL', initial: 'info' },
    ...{ yaml: 'log: {level: warn}', inFile: 'warn', text: 'error', inEnvironment: 'error' },
    ...{ flag: 'debug', inFlag: 'debug' },
  },
  {
    ...{ option: 'guard.statusCode', variable: 'GUARD_STATUS_CODE', initial: 503 },
    ...{
      yaml: 'guard: {statusCode: 424}',
      inFile: 424,
      text: '409',
      inEnvironment: 409,
      flag: '429',
      inFlag: 429,
    },
  },
  {
    ...{ option: 'basePath', variable: 'BASE_PATH', initial: '' },
    ...{ yaml: 'basePath: /a', inFile: '/a', text: '/b', inEnvironment: '/b', flag: '/c', inFlag: '/c' },
  },
  {
    ...{ option: 'server.trustProxy', variable: 'SERVER_TRUST_PROXY', initial: [] },
    ...{ yaml: 'server: {trustProxy: [loopback, 10.0.0.0/8]}', inFile: ['loopback', '10.0.0.0/8'] },
    ...{ text: '["::1"]', inEnvironment: ['::1'], flag: '[]', inFlag: [] },
  },
  {
    ...{
      option: 'guard.routes',
      variable: 'GUARD_ROUTES',
      initial: [{ method: 'POST', path: '/configure' }],
    },
    ...{ yaml: 'guard: {routes: []}', inFile: [] },
    ...{ text: '- method: POST\n  path: /a', inEnvironment: [{ method: 'POST', path: '/a' }] },
    ...{ flag: '[{"method":"PUT","path":"/b"}]', inFlag: [{ method: 'PUT', path: '/b' }] },
  },
]

for (const { option, variable, initial, yaml, inFile, text, inEnvironment, flag, inFlag } of PRECEDENCE) {
  test(`${option}: a flag takes precedence over the environment, then the file, then the default`, () => {
    const env = { ...UPSTREAM, [`FOCUS_BREAKER_${variable}`]: text }
    const flags = { [option]: flag }
    const value = (given: Given) => at(configOf({ env: UPSTREAM, ...given }), ...option.split('.'))
    assert.deepEqual(value({}), initial)
    assert.deepEqual(value({ yaml }), inFile)
    assert.deepEqual(value({ env }), inEnvironment)
    assert.deepEqual(value({ yaml, env }), inEnvironment)
    assert.deepEqual(value({ yaml, env, flags }), inFlag)
    assert.deepEqual(value({ yaml, flags }), inFlag)
  })
}

test('an option of a group that one source does not set is taken from the next source', () => {
  const { retryAfter, circuit } = configOf({
    yaml: 'retryAfter: {minSeconds: 3}\ncircuit: {readyThreshold: 4}',
    env: { ...UPSTREAM, FOCUS_BREAKER_RETRY_AFTER_MAX_SECONDS: '9' },
    flags: { 'circuit.waitingThreshold': '2' },
  })
  assert.deepEqual(retryAfter, { minSeconds: 3, maxSeconds: 9 })
  assert.deepEqual(circuit, { waitingThreshold: 2, unreachableThreshold: 3, readyThreshold: 4 })
})

test('every option with a default has it', () => {
  const config = configOf({ env: UPSTREAM })
  for (const { name, schema } of describe().options) {
    if (name !== 'upstream.url') assert.deepEqual(at(config, ...name.split('.')), schema.default, name)
  }
})

test('one configuration does not change the next one', () => {
  const { guard } = configOf({ env: UPSTREAM })
  Reflect.set(guard.routes, 'length', 0)
  assert.equal(configOf({ env: UPSTREAM }).guard.routes.length, 1)
})

test('a variable names the file if no flag does', () => {
  const file = (port: number) => write(`server: {port: ${port}}`)
  const environment = { ...UPSTREAM, FOCUS_BREAKER_CONFIG: file(1) }
  const port = (loaded: Loaded) => loaded.ok && loaded.config.server.port
  assert.equal(port(load({ environment })), 1)
  assert.equal(port(load({ environment, file: file(2) })), 2)
  assert.equal(port(load({ environment: { ...UPSTREAM, FOCUS_BREAKER_CONFIG: '' } })), 8080)
})

test('a file that is empty, or has only comments or empty groups, changes nothing', () => {
  const plain = configOf({ env: UPSTREAM })
  for (const yaml of [
    '',
    '\n',
    '# nothing\n',
    '---\n',
    'server:\nprobe:\n  # periodMs: 1\n',
    'server: {port: }',
  ]) {
    assert.deepEqual(configOf({ yaml, env: UPSTREAM }), plain, JSON.stringify(yaml))
  }
})

const LISTS: readonly (readonly [variable: string, text: string, option: string, value: unknown])[] = [
  ['SERVER_TRUST_PROXY', '["loopback","10.0.0.0/8"]', 'server.trustProxy', ['loopback', '10.0.0.0/8']],
  ['SERVER_TRUST_PROXY', '[loopback, 10.0.0.0/8]', 'server.trustProxy', ['loopback', '10.0.0.0/8']],
  ['SERVER_TRUST_PROXY', '- loopback\n- ::1\n', 'server.trustProxy', ['loopback', '::1']],
  [
    'FIBER_READY_WHEN',
    '[{field: prr, operator: ">=", value: 1000}, {field: ok, operator: ==, value: true}]',
    'fiber.readyWhen',
    [
      { field: 'prr', operator: '>=', value: 1000 },
      { field: 'ok', operator: '==', value: true },
    ],
  ],
]

for (const [variable, text, option, value] of LISTS) {
  test(`a list from the environment: ${JSON.stringify(text)}`, () => {
    const env = { ...UPSTREAM, [`FOCUS_BREAKER_${variable}`]: text }
    assert.deepEqual(at(configOf({ env }), ...option.split('.')), value)
  })
}

test('an empty variable counts as not set, and so does an empty misspelled one', () => {
  const empty = Object.fromEntries(describe().options.map(({ variable }) => [variable, '']))
  const env = { ...empty, ...UPSTREAM, FOCUS_BREAKER_SERVER_PROT: '' }
  assert.deepEqual(configOf({ env }), configOf({ env: UPSTREAM }))
  assert.equal(configOf({ yaml: 'server: {port: 1}', env }).server.port, 1)
})

test('the variables that Kubernetes sets for a Service of this name are not options', () => {
  const links = {
    FOCUS_BREAKER_SERVICE_HOST: '10.0.0.11',
    FOCUS_BREAKER_SERVICE_PORT: '8080',
    FOCUS_BREAKER_SERVICE_PORT_HTTP: '8080',
    FOCUS_BREAKER_PORT: 'tcp://10.0.0.11:8080',
    FOCUS_BREAKER_PORT_8080_TCP: 'tcp://10.0.0.11:8080',
    FOCUS_BREAKER_PORT_8080_TCP_PROTO: 'tcp',
    FOCUS_BREAKER_PORT_8080_TCP_PORT: '8080',
    FOCUS_BREAKER_PORT_8080_TCP_ADDR: '10.0.0.11',
  }
  assert.deepEqual(configOf({ env: { ...UPSTREAM, ...links } }), configOf({ env: UPSTREAM }))
})

test('the variables of our own clients are not options', () => {
  const clients = { FOCUS_BREAKER_URL: 'http://192.0.2.1', FOCUS_BREAKER_TEST_RUN: 'nightly-1' }
  assert.deepEqual(configOf({ env: { ...UPSTREAM, ...clients } }), configOf({ env: UPSTREAM }))
})

test('variables of other programs are ignored', () => {
  const env = { ...UPSTREAM, PATH: '/bin', FOCUS_SERVER_PORT: 'x', focus_breaker_server_port: 'x' }
  assert.deepEqual(configOf({ env }), configOf({ env: UPSTREAM }))
})

/** Faults as the user reads them: where, what was expected, what was given. */
const FAULTS: readonly (readonly [that: string, given: Given, ...lines: readonly string[]])[] = [
  [
    'a number out of bounds, in the file',
    { yaml: 'server:\n  host: a\n  port: 65536' },
    'file:3 server.port: a whole number from 0 to 65535; 65536',
  ],
  [
    'a number with a fraction',
    { env: { FOCUS_BREAKER_SERVER_PORT: '80.5' } },
    'FOCUS_BREAKER_SERVER_PORT server.port: a whole number from 0 to 65535; 80.5',
  ],
  [
    'text for a number',
    { flags: { 'server.port': 'http' } },
    '--server.port server.port: a whole number from 0 to 65535; "http"',
  ],
  [
    'text that is not YAML for a number',
    { env: { FOCUS_BREAKER_SERVER_PORT: '"80' } },
    'FOCUS_BREAKER_SERVER_PORT server.port: a whole number from 0 to 65535; "\\"80"',
  ],
  [
    'a word for a boolean',
    { env: { FOCUS_BREAKER_UPSTREAM_TLS_INSECURE_SKIP_VERIFY: 'yes' } },
    'FOCUS_BREAKER_UPSTREAM_TLS_INSECURE_SKIP_VERIFY upstream.tls.insecureSkipVerify: true or false; "yes"',
  ],
  [
    'a value that is not one of the choices',
    { yaml: '\n\nguard: {mode: enforced, statusCode: 500}' },
    'file:3 guard.mode: one of enforce, observe; "enforced"',
    'file:3 guard.statusCode: one of 400, 409, 424, 429, 503; 500',
  ],
  [
    'a number where text is expected',
    { yaml: 'server:\n  host: 127' },
    'file:2 server.host: text that is not empty; 127, a number: quote it',
  ],
  ['a value for a group', { yaml: '\nserver: 80' }, 'file:2 server: a group of options; 80'],
  ['a list for a group', { yaml: 'server: []' }, 'file:1 server: a group of options; a list'],
  ['a list for a file', { yaml: '- server' }, 'file: groups of options; a list'],
  ['text for a file', { yaml: 'server' }, 'file: groups of options; a string'],
  [
    'a misspelled key',
    { yaml: 'probe:\n  timeoutMs: 5000\n  perodMs: 5000' },
    'file:3 probe.perodMs: the name of an option (did you mean probe.periodMs?); an unknown key',
  ],
  [
    'a misspelled group',
    { yaml: 'server: {}\nretryafter: {}' },
    'file:2 retryafter: the name of an option (did you mean retryAfter?); an unknown key',
  ],
  [
    'a key that resembles no option',
    { yaml: 'quarks: 1' },
    'file:1 quarks: the name of an option; an unknown key',
  ],
  [
    'an unknown key without a value',
    { yaml: 'probe:\n  perodMs:' },
    'file:2 probe.perodMs: the name of an option (did you mean probe.periodMs?); an unknown key',
  ],
  [
    'a key that every object has',
    { yaml: '__proto__: {port: 1}' },
    'file:1 __proto__: the name of an option; an unknown key',
  ],
  [
    'a misspelled variable',
    { env: { FOCUS_BREAKER_UPSTREAM_URI: 'http://h', FOCUS_BREAKER_QUARKS: '1' } },
    'environment: the name of an option (did you mean FOCUS_BREAKER_UPSTREAM_URL?); FOCUS_BREAKER_UPSTREAM_URI',
    'environment: the name of an option; FOCUS_BREAKER_QUARKS',
  ],
  [
    'a fault within a list',
    { yaml: 'guard:\n  routes:\n    - {method: POST, path: /a}\n    - {method: post, path: b}' },
    'file:2 guard.routes: a list: {method, path}, the method in capital letters; {"method":"post","path":"b"} as method of item 2',
  ],
  [
    'a number operator for text',
    { yaml: 'fiber: {readyWhen: [{field: a, operator: ">", value: b}]}' },
    'file:1 fiber.readyWhen: a list: {field, operator, value}, with > >= < <= == != for a number, == != for text or true/false; {"field":"a","operator":">","value":"b"} as value of item 1',
  ],
  [
    'an empty list of predicates',
    { yaml: 'fiber: {readyWhen: []}' },
    'file:1 fiber.readyWhen: a list: {field, operator, value}, with > >= < <= == != for a number, == != for text or true/false; []',
  ],
  [
    'a base path with a trailing slash',
    { flags: { basePath: '/focus-server/' } },
    '--basePath basePath: \'\' or a path like /focus-server, without a trailing slash; "/focus-server/"',
  ],
  [
    'a minimum above the maximum',
    { yaml: 'retryAfter:\n  maxSeconds: 2\n  minSeconds: 3' },
    'file:3 retryAfter.minSeconds: at most retryAfter.maxSeconds (2); 3',
  ],
  [
    'a ramp downwards, against a default',
    { env: { FOCUS_BREAKER_RECOVERY_INITIAL_CONCURRENCY: '31' } },
    'FOCUS_BREAKER_RECOVERY_INITIAL_CONCURRENCY recovery.initialConcurrency: at most recovery.maxConcurrency (30); 31',
  ],
]

for (const [that, given, ...lines] of FAULTS) {
  test(`${that} is a fault with its origin, the expected value and the given value`, () => {
    assert.deepEqual(linesOf({ ...given, env: { ...UPSTREAM, ...given.env } }), lines)
  })
}

const URLS_REFUSED = [
  'focus-server:5000',
  'focus-server',
  'ftp://h',
  'http://',
  'http://h?x=1',
  'http://h#x',
  '/x',
]

for (const url of URLS_REFUSED) {
  test(`${url} is not the URL of an upstream`, () => {
    assert.deepEqual(linesOf({ flags: { 'upstream.url': url } }), [
      `--upstream.url upstream.url: an http or https URL without query or fragment, like http://focus-server:5000; ${JSON.stringify(url)}`,
    ])
  })
}

for (const url of ['http://h', 'https://h:1/base/', 'http://[::1]:5000', 'http://user:pw@h', 'HTTP://H']) {
  test(`${url} is the URL of an upstream`, () => {
    assert.equal(configOf({ flags: { 'upstream.url': url } }).upstream.url, url)
  })
}

test('without an upstream URL, the fault lists the ways to set it', () => {
  for (const yaml of ['', 'upstream:', 'upstream: {url: }']) {
    const [line = '', ...more] = linesOf({ yaml })
    assert.match(
      line,
      /^(file:1 )?upstream\.url: an http or https URL .*\(--upstream, FOCUS_BREAKER_UPSTREAM_URL, or the file\); nothing$/,
    )
    assert.deepEqual(more, [])
  }
})

test('a fault is reported for the source of its value, not for a source that was overridden', () => {
  const given = {
    yaml: 'upstream: {url: http://h}\nserver: {port: x}',
    env: { FOCUS_BREAKER_SERVER_PORT: 'y' },
  }
  assert.deepEqual(
    faultsOf(given).map(({ source, given }) => [source, given]),
    [['FOCUS_BREAKER_SERVER_PORT', '"y"']],
  )
  assert.equal(configOf({ ...given, flags: { 'server.port': '1' } }).server.port, 1)
})

test('a value for a group is a fault even if another source sets an option of the group', () => {
  const given = { yaml: 'server: 80', env: { ...UPSTREAM, FOCUS_BREAKER_SERVER_PORT: '81' } }
  assert.deepEqual(linesOf(given), ['file:1 server: a group of options; 80'])
})

test('all faults are reported together, whatever their kind and number', () => {
  const given: Given = {
    yaml: [
      'server: {port: x, host: "", drainTimeoutMs: -1, quarks: 1, trustProxy: nobody}',
      'probe: {periodMs: 1, timeoutMs: 1, path: x}',
      'circuit: {waitingThreshold: 0, unreachableThreshold: 0, readyThreshold: 0}',
      'retryAfter: {minSeconds: 3, maxSeconds: 2}',
      'fiber: {readyWhen: [{}, {}, {}, {}]}',
      'upstream: {tls: {caFile: /nowhere/ca.pem}}',
      'admin: {tokenFile: /nowhere/token}',
      'leptons: {}',
    ].join('\n'),
    env: { FOCUS_BREAKER_LOG_LEVEL: 'loud', FOCUS_BREAKER_BOSONS: '1' },
    flags: { basePath: 'x' },
  }
  assert.deepEqual(
    faultsOf(given)
      .map(({ option, given }) => option || given)
      .toSorted(),
    [
      ...['FOCUS_BREAKER_BOSONS', 'admin.tokenFile', 'basePath'],
      ...['circuit.readyThreshold', 'circuit.unreachableThreshold', 'circuit.waitingThreshold'],
      ...['fiber.readyWhen', 'leptons', 'log.level', 'probe.path', 'probe.periodMs', 'probe.timeoutMs'],
      ...['retryAfter.minSeconds', 'server.drainTimeoutMs', 'server.host', 'server.port', 'server.quarks'],
      ...['server.trustProxy', 'upstream.tls.caFile', 'upstream.url'],
    ],
  )
})

test('a YAML fault is reported with its line and column, and the other sources are still checked', () => {
  const lines = linesOf({
    yaml: 'server:\n  port: 80\n host: a',
    env: { FOCUS_BREAKER_LOG_LEVEL: 'loud', ...UPSTREAM },
  })
  assert.match(lines[0] ?? '', /^file:3:\d+: YAML; \S/)
  assert.ok(lines.some(line => line.startsWith('FOCUS_BREAKER_LOG_LEVEL log.level')))
})

const NOT_YAML = [
  'server: {port: 80',
  'a: "',
  'log: {level: info}\nlog: {level: warn}',
  'a: 1\n---\nb: 2',
  '\tserver:',
]

for (const yaml of NOT_YAML) {
  test(`${JSON.stringify(yaml)} is not a valid configuration file`, () => {
    assert.match(linesOf({ yaml, env: UPSTREAM })[0] ?? '', /^file:\d+:\d+: YAML; \S/)
  })
}

test('an alias without an anchor is a fault of the file, not an exception', () => {
  assert.match(linesOf({ yaml: 'log:\n  level: *info', env: UPSTREAM })[0] ?? '', /^file/)
})

test('a file that cannot be read is a fault', () => {
  for (const file of [join(directory, 'none.yaml'), directory]) {
    const loaded = load({ file, environment: UPSTREAM })
    assert.ok(!loaded.ok)
    const [fault, ...more] = loaded.faults
    assert.deepEqual([fault?.source, fault?.expected, more], [file, 'a readable file', []])
    assert.match(fault?.given ?? '', /ENOENT|EISDIR/)
  }
})

const TOO_DEEP = /^:[1-9]\d*:\d+: expected at most 32 nested groups or lists; given more$/

/** Files that are not plain YAML in UTF-8, and the message. */
const UNREADABLE: readonly (readonly [that: string, content: string | Buffer, problem: RegExp])[] = [
  ['an unknown tag', 'server:\n  port: !pa55 1', /^:2:\d+: .*without YAML tags.*; given an unknown tag$/],
  ['an undeclared handle', 'server: !pa55!x 1', /^:1:\d+: .*without YAML tags.*; given an unknown tag$/],
  ...['set', 'omap', 'pairs', 'binary', 'timestamp'].map(
    tag =>
      [
        `!!${tag}`,
        `\nserver: !!${tag} ${{ set: '{port}', omap: '[port: 1]', pairs: '[port: 1]', timestamp: '2001-01-01' }[tag] ?? 'aGk='}`,
        new RegExp(`^:2:\\d+: .*without YAML tags.*; given the tag !!${tag}$`),
      ] as const,
  ),
  ['!!int before text', 'server: {port: !!int x}', /^:1:16: .*; given an invalid tag or directive$/],
  ['a merge key', 'server:\n  <<: {port: 1}', /^:2:3: .*; given a merge key \(<<\)$/],
  ['a list as a key', '? [a]\n: 1', /^:1:3: expected a string as a key/],
  ['an alias that is not defined', 'log:\n  level: *pa55', /^:2:10: .*; given an alias that is not defined$/],
  [
    'an alias before its anchor',
    'log: *pa55\nserver: &pa55 {}',
    /^:1:6: .*; given an alias that is not defined$/,
  ],
  ['an alias within its anchor', 'log: &pa55 [*pa55]', /^:1:13: .*; given an alias inside it$/],
  [
    'an alias bomb',
    `a: &a [1, 1]\n${[...'bcdefgh'].map((name, index) => `${name}: &${name} [${Array(10).fill(`*${'abcdefg'[index]}`)}]`).join('\n')}`,
    /^: .*; given aliases that expand to too many values$/,
  ],
  ...['[', '{a: ', '- ', '? '].map(
    level => [`100,000 times ${JSON.stringify(level)}`, level.repeat(100_000), TOO_DEEP] as const,
  ),
  [
    '99 groups by their indentation',
    Array.from({ length: 99 }, (_, depth) => `${' '.repeat(depth)}a:`).join('\n'),
    TOO_DEEP,
  ],
  ['text that the library quotes', 'a: "pa55" "pa55"', /^:1:\d+: expected YAML; given [^"]+$/],
  [
    'UTF-16 with a byte order mark',
    Buffer.from('\ufeffserver: {port: 1}', 'utf16le'),
    /^: .*; given a file that is in UTF-16/,
  ],
  [
    'UTF-16 without a byte order mark',
    Buffer.from('server: {port: 1}', 'utf16le'),
    /^: .*; given a file that is in UTF-16/,
  ],
  [
    'UTF-16, big-endian',
    Buffer.from('server: {}', 'utf16le').swap16(),
    /^: .*; given a file that is in UTF-16/,
  ],
  [
    'Latin-1',
    Buffer.from('log: {}\n# caf\xe9', 'latin1'),
    /^: .*; given a file that is not valid UTF-8 at line 2, column 6/,
  ],
  [
    'a program',
    Buffer.from('\x7fELF\x01\x01\0\0\0', 'latin1'),
    /^: .*; given a file that is binary, not text$/,
  ],
  [
    'an endless file',
    Buffer.alloc(1_048_577, '#\n'),
    /^: .*; given a file that has more than 1048576 bytes$/,
  ],
]

for (const [that, content, problem] of UNREADABLE) {
  test(`${that} in a file is one fault with its position, in the configuration and in the webhooks file, and is not quoted`, () => {
    const file = write(content)
    const ofFile = load({ file, environment: UPSTREAM })
    const ofHooks = load({ environment: { ...UPSTREAM, FOCUS_BREAKER_NOTIFY_WEBHOOKS_FILE: file } })
    for (const loaded of [ofFile, ofHooks]) {
      assert.ok(!loaded.ok)
      const [fault, ...more] = loaded.faults
      assert.ok(fault)
      assert.deepEqual(more, [])
      const place = fault.source.replace(/^FOCUS_BREAKER_\w+(: )?/, '').replace(file, '')
      const given = fault.given.replace(`${file}, which`, 'a file that')
      assert.match(`${place}: expected ${fault.expected}; given ${given}`, problem)
      assert.ok(!explain(loaded.faults).includes('pa55'), explain(loaded.faults))
    }
  })
}

const NUMBERS = [
  '.inf',
  '-.inf',
  '.nan',
  '1e400',
  '99999999999999999999',
  '1_000',
  '!!int x',
  '[[[1]]]',
  `${'['.repeat(50_000)}`,
]
for (const number of NUMBERS) {
  test(`${number.slice(0, 30)} is not a port, and is shown as it was written`, () => {
    const expected = 'server.port: a whole number from 0 to 65535; '
    const shown = (line: string | undefined) => line?.slice(line.indexOf(expected) + expected.length)
    for (const given of [
      { env: { FOCUS_BREAKER_SERVER_PORT: number } },
      { flags: { 'server.port': number } },
    ]) {
      const [line, ...more] = linesOf({ ...given, env: { ...UPSTREAM, ...given.env } })
      assert.ok(line?.includes(expected), line)
      assert.deepEqual(more, [])
      const start = number.slice(0, 100)
      assert.ok(
        [start, JSON.stringify(start)].includes(shown(line) ?? '') || shown(line)?.includes(start),
        line,
      )
    }
    if (!/^[![]/.test(number)) {
      const [line] = linesOf({ env: UPSTREAM, yaml: `server:\n  port: ${number}` })
      assert.equal(shown(line)?.replaceAll('"', ''), number)
    }
  })
}

test('a number that JSON cannot represent is shown as in YAML, also in a list', () => {
  for (const value of ['.inf', '-.inf', '.nan']) {
    const yaml = `fiber: {readyWhen: [{field: a, operator: "<", value: ${value}}]}`
    assert.match(
      linesOf({ env: UPSTREAM, yaml })[0] ?? '',
      new RegExp(`"value":${value}} as value of item 1$`),
    )
  }
})

test('a fault in a file has the line and column of its option', () => {
  const yaml = 'server:\n  tls: {}\n  port: x\nlog: {level: info, format: x}\n"quarks": 1'
  assert.deepEqual(
    faultsOf({ env: UPSTREAM, yaml }).map(({ source }) => source.replace(/^.*yaml:/, '')),
    ['5:1', '3:3', '4:20'],
  )
})

test('white space around a secret is removed, whichever source it comes from', () => {
  const secret = 'correct-horse-battery'
  for (const end of ['\n', '\r\n', ' \n\n', '\t', '\ufeff']) {
    for (const [name, variable] of [
      ['admin.token', 'FOCUS_BREAKER_ADMIN_TOKEN'],
      ['notify.secret', 'FOCUS_BREAKER_NOTIFY_SECRET'],
    ] as const) {
      const [section = '', key = ''] = name.split('.')
      const text = `${end}${secret}${end}`
      const sources: readonly Given[] = [
        { env: { [variable]: text } },
        { env: { [`${variable}_FILE`]: write(text) } },
        { yaml: JSON.stringify({ [section]: { [key]: text } }) },
        { yaml: JSON.stringify({ [section]: { [`${key}File`]: write(text) } }) },
        { flags: { [name]: text } },
      ]
      for (const given of sources) {
        const config = configOf({ ...given, env: { ...UPSTREAM, ...given.env } })
        assert.equal(at(config, section, key), secret, JSON.stringify([end, given]))
      }
    }
  }
})

test('the fault for a token with invalid characters shows only what kind of characters they are', () => {
  const expected =
    'FOCUS_BREAKER_ADMIN_TOKEN admin.token: text of 16 ASCII characters or more, without spaces; '
  for (const [token, given] of [
    ['correct-horse\nbattery', `${MASK}, with white space in the middle`],
    ['correct-horse battery', `${MASK}, with a space in the middle`],
    ['correct-horse-bätterie', `${MASK}, with a character that is not printable ASCII`],
    ['short\n', MASK],
  ] as const) {
    assert.deepEqual(linesOf({ env: { ...UPSTREAM, FOCUS_BREAKER_ADMIN_TOKEN: token } }), [expected + given])
  }
})

test('a fault is one line, whatever its file, key or value contains', () => {
  const odd = 'a\nb\r\u001b[31m\u2028\u202e'
  const shown = 'a\\nb\\r\\u001b[31m\\u2028\\u202e'
  for (const given of [
    load({ file: join(directory, odd), environment: UPSTREAM }),
    loadFrom({ env: UPSTREAM, yaml: JSON.stringify({ [odd]: 1 }) }),
    loadFrom({ env: { ...UPSTREAM, FOCUS_BREAKER_ADMIN_TOKEN_FILE: odd } }),
    loadFrom({ env: { ...UPSTREAM, [`FOCUS_BREAKER_${odd}`]: '1' } }),
    loadFrom({ env: UPSTREAM, flags: { 'server.tls.certFile': odd, 'server.tls.keyFile': odd } }),
  ]) {
    assert.ok(!given.ok)
    const [, ...lines] = explain(given.faults).split(/[\n\r\u2028]/)
    assert.equal(lines.length, given.faults.length)
    for (const line of lines) assert.ok(line.includes(shown), line)
  }
})

test('a NUL character in a text is a fault in the option', () => {
  const yaml = '{"server": {"host": "a\\u0000b"}, "history": {"file": "\\u0000"}}'
  assert.deepEqual(linesOf({ env: UPSTREAM, yaml }), [
    'file:1 server.host: text without NUL characters; a NUL character',
    'file:1 history.file: text without NUL characters; a NUL character',
  ])
})

test('no key of a file can change anything outside the configuration', t => {
  t.after(() => Reflect.deleteProperty(Object.prototype, 'polluted'))
  const yaml =
    '"__proto__.polluted": true\nserver: {"__proto__.polluted": true}\nconstructor: {prototype: {polluted: true}}'
  loadFrom({ yaml, env: UPSTREAM })
  assert.equal(Reflect.get({}, 'polluted'), undefined)
})

test('a token is read from its file, without white space around it', () => {
  for (const text of [TOKEN, `${TOKEN}\n`, `  ${TOKEN}\r\n\n`]) {
    const tokenFile = write(text)
    const { admin } = configOf({ env: { ...UPSTREAM, FOCUS_BREAKER_ADMIN_TOKEN_FILE: tokenFile } })
    assert.deepEqual(admin, { token: TOKEN, tokenFile })
    assert.equal(configOf({ yaml: `admin: {tokenFile: '${tokenFile}'}`, env: UPSTREAM }).admin.token, TOKEN)
  }
})

test('a token and a token file together are a fault', () => {
  const tokenFile = write(TOKEN)
  const env = { ...UPSTREAM, FOCUS_BREAKER_ADMIN_TOKEN: TOKEN, FOCUS_BREAKER_ADMIN_TOKEN_FILE: tokenFile }
  assert.deepEqual(faultsOf({ env }), [
    {
      option: 'admin.tokenFile',
      source: 'FOCUS_BREAKER_ADMIN_TOKEN_FILE',
      expected: 'this or admin.token, not both',
      given: tokenFile,
    },
  ])
})

test('a token file that is missing, empty or too short is a fault', () => {
  const missing = join(directory, 'no-token')
  const faultWith = (tokenFile: string) => {
    const [fault, ...more] = faultsOf({ env: { ...UPSTREAM, FOCUS_BREAKER_ADMIN_TOKEN_FILE: tokenFile } })
    assert.deepEqual(more, [])
    return fault
  }
  const { option, source, expected, given = '' } = faultWith(missing) ?? {}
  assert.deepEqual(
    [option, source, expected],
    ['admin.tokenFile', 'FOCUS_BREAKER_ADMIN_TOKEN_FILE', 'a readable file'],
  )
  assert.match(given, /ENOENT/)
  for (const text of ['', '\n', 'short', 'fifteen-letters', 'sixteen letters ']) {
    const file = write(text)
    assert.deepEqual(faultWith(file), {
      option: 'admin.token',
      source: `FOCUS_BREAKER_ADMIN_TOKEN_FILE: ${file}`,
      expected: 'text of 16 ASCII characters or more, without spaces',
      given: '********',
    })
  }
})

const HOOKS = [{ url: 'https://hooks.example.com/a', format: 'json' }]

test('webhooks are read from their file, as YAML or JSON, and the variable names the file', () => {
  for (const text of [JSON.stringify(HOOKS), '- url: https://hooks.example.com/a\n  format: json\n']) {
    const webhooksFile = write(text)
    const env = { ...UPSTREAM, FOCUS_BREAKER_NOTIFY_WEBHOOKS_FILE: webhooksFile }
    assert.deepEqual(configOf({ env }).notify.webhooks, HOOKS)
    const shown = masked(configOf({ env, yaml: 'notify: {webhooks: []}' }))
    assert.equal(at(shown, 'notify', 'webhooksFile'), webhooksFile)
    // Enough to see that they are set, without the secret parts.
    assert.deepEqual(at(shown, 'notify', 'webhooks'), [
      { url: `https://hooks.example.com/${MASK}`, format: 'json' },
    ])
    const both = faultsOf({ env, yaml: `notify: {webhooks: ${JSON.stringify(HOOKS)}}` })
    assert.deepEqual(
      both.map(({ option, expected }) => [option, expected]),
      [['notify.webhooksFile', 'this or notify.webhooks, not both']],
    )
  }
  const noList = faultsOf({ env: { ...UPSTREAM, FOCUS_BREAKER_NOTIFY_WEBHOOKS_FILE: write('hooks: [') } })
  assert.deepEqual(
    noList.map(({ option, given }) => [option, given]),
    [['notify.webhooks', 'Flow sequence in block collection must be sufficiently indented and end with a ]']],
  )
})

test('an invalid webhook is reported by its number and not shown; a repeated URL is a fault', () => {
  const expected =
    'file:1 notify.webhooks: a list: {url, format} with format json, slack, teams or pagerduty; optional headers {name: value}, each value on one line; for pagerduty, routingKey of 32 letters and digits'
  const linesFor = (hooks: readonly object[]) =>
    linesOf({ env: UPSTREAM, yaml: `notify: {webhooks: ${JSON.stringify(hooks)}}` })
  const [hook] = HOOKS
  assert.deepEqual(linesFor([{ ...hook }, { ...hook, format: 'discord' }]), [
    `${expected}; ${MASK} as format of item 2`,
  ])
  assert.deepEqual(linesFor([{ url: 'hooks.example.com', format: 'json' }]), [
    `${expected}; ${MASK} as url of item 1`,
  ])
  for (const url of ['https://hooks.example.com/a', 'HTTPS://hooks.example.com:443/a']) {
    assert.deepEqual(linesFor([{ ...hook }, { url, format: 'slack' }]), [
      'file:1 notify.webhooks: each URL once; the URL of an earlier item in item 2',
    ])
  }
})

test('a webhook has only headers that can be sent, and a routing key only with PagerDuty', () => {
  const hook = { url: 'https://hooks.example.com/a', format: 'json' }
  const routingKey = 'R0123456789abcdefghijklmnopqrstu'
  const yamlOf = (more: object) => `notify: {webhooks: ${JSON.stringify([{ ...hook, ...more }])}}`
  const given = (more: object) => linesOf({ env: UPSTREAM, yaml: yamlOf(more) })
  for (const right of [
    { headers: {} },
    { headers: { Authorization: 'Bearer a b', 'X-Key_1': '~' } },
    { format: 'teams' },
    { format: 'pagerduty', routingKey },
  ]) {
    assert.deepEqual(configOf({ env: UPSTREAM, yaml: yamlOf(right) }).notify.webhooks, [
      { ...hook, ...right },
    ])
  }
  for (const headers of [
    ...['a\n', 'a\r\nX: b', '', ' a', 'a ', 'é', '\0'].map(value => ({ 'X-Key': value })),
    ...['', 'a b', 'a:', 'a\n', 'é', '_'].map(name => ({ [name]: 'a' })),
    { 'X-Key': 1 },
    ['a'],
  ]) {
    const [line, ...more] = given({ headers })
    assert.match(line ?? '', /notify\.webhooks: a list: .*; \*{8}/, JSON.stringify(headers))
    assert.deepEqual(more, [])
  }
  const rows: readonly (readonly [more: object, line: string])[] = [
    [
      { headers: { 'Webhook-Signature': 'a' } },
      'no header that focus-breaker sets itself; webhook-signature in item 1',
    ],
    [{ headers: { Host: 'a' } }, 'no header that focus-breaker sets itself; host in item 1'],
    [{ headers: { 'x-a': '1', 'X-A': '2' } }, 'each header once; x-a twice in item 1'],
    [{ format: 'pagerduty' }, 'the routingKey of a webhook of format pagerduty; none in item 1'],
    [{ routingKey }, 'a routingKey only with format pagerduty; one with format json in item 1'],
  ]
  for (const [more, line] of rows) assert.deepEqual(given(more), [`file:1 notify.webhooks: ${line}`])
})

test('the notification secret is long enough, and valid base64 after whsec_', () => {
  const env = (secret: string) => ({ ...UPSTREAM, FOCUS_BREAKER_NOTIFY_SECRET: secret })
  for (const right of [
    ...['sixteen letters!', 'whsec is no prefix', 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'],
    ...['whsec_c2VjcmV0IHNlY3JldCBzZQ==', 'whsec_c2VjcmV0IHNlY3JldCBzZQ'],
  ]) {
    assert.equal(configOf({ env: env(right) }).notify.secret, right)
  }
  for (const wrong of [
    ...['fifteen letters', 'whsec_', 'whsec_c2VjcmV0', 'whsec_not base64 at all, I am afraid'],
    'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS-',
  ]) {
    assert.deepEqual(linesOf({ env: env(wrong) }), [
      'FOCUS_BREAKER_NOTIFY_SECRET notify.secret: text of 16 characters or more, ' +
        `or \`whsec_\` and base64 of 16 bytes or more; ${MASK}`,
    ])
  }
})

const SECRET = 'pa55'

/** Mistakes that contain a secret, `pa55`. */
const MISTAKES: readonly (readonly [that: string, given: Given])[] = [
  ['a token that is too short, in the file', { yaml: `admin: {token: ${SECRET}}` }],
  ['a token that is too short, in the environment', { env: { FOCUS_BREAKER_ADMIN_TOKEN: SECRET } }],
  ['a token that is too short, in its own file', { env: { FOCUS_BREAKER_ADMIN_TOKEN_FILE: write(SECRET) } }],
  ['a token that is a list', { yaml: `admin: {token: [${SECRET}${SECRET}]}` }],
  ['a token that is a group', { yaml: `admin: {token: {value: ${SECRET}${SECRET}}}` }],
  ['a token in place of its group', { yaml: `admin: ${SECRET}${SECRET}` }],
  ['a token under a wrong name', { yaml: `admin: {tocken: ${SECRET}${SECRET}}` }],
  ['a token in a variable of a wrong name', { env: { FOCUS_BREAKER_ADMIN_TOCKEN: SECRET } }],
  [
    'a token together with its file',
    { yaml: `admin: {token: ${SECRET}${SECRET}, tokenFile: ${write(SECRET)}}` },
  ],
  ['a token that YAML takes for an alias', { yaml: `admin: {token: *${SECRET} }` }],
  ['a token that YAML takes for a tag', { yaml: `admin:\n  token: !${SECRET}${SECRET} x\n  x` }],
  ['a URL with a query', { flags: { 'upstream.url': `http://user:${SECRET}@h/?x` } }],
  ['a URL of another scheme', { flags: { 'upstream.url': `ftp://user:${SECRET}@h/` } }],
  ['a URL whose password holds a #', { flags: { 'upstream.url': `http://user:${SECRET}#@h/` } }],
  ['a URL whose password holds a /', { flags: { 'upstream.url': `http://user:/${SECRET}@h/` } }],
  ['a URL without a scheme', { flags: { 'upstream.url': `user:${SECRET}@h:5000` } }],
  ['a URL in a list', { yaml: `upstream: {url: ['http://user:${SECRET}@h']}` }],
  ['a URL in place of its group', { yaml: `upstream: http://user:${SECRET}@h` }],
  ['a URL in place of the file', { yaml: `http://user:${SECRET}@h` }],
  ['a URL of Redis with a query', { yaml: `replicas: {url: 'redis://user:${SECRET}@h?x'}` }],
  ['a URL of Redis in a list', { yaml: `replicas: {url: ['redis://user:${SECRET}@h']}` }],
  ['a URL of Redis in place of its group', { yaml: `replicas: redis://user:${SECRET}@h` }],
  ['a URL of Redis as its namespace', { yaml: `replicas: {namespace: 'redis://user:${SECRET}@h'}` }],
]

for (const [that, given] of MISTAKES) {
  test(`a secret is not shown in the faults of ${that}`, () => {
    const url = given.flags?.['upstream.url'] ?? (given.yaml?.includes('upstream') ? undefined : 'http://h')
    const flags = url === undefined ? {} : { 'upstream.url': url }
    let shown: string
    try {
      shown = explain(faultsOf({ ...given, flags }))
    } catch (error) {
      shown = String(error)
    }
    assert.ok(!shown.includes(SECRET), shown)
  })
}

test('the configuration is shown with its secrets masked, and is not changed', () => {
  const tokenFile = write(TOKEN)
  const config = configOf({
    flags: { 'upstream.url': `http://user:${SECRET}@h:1/base` },
    yaml: `admin: {tokenFile: '${tokenFile}'}`,
  })
  const shown = masked(config)
  assert.equal(at(shown, 'upstream', 'url'), 'http://***@h:1/base')
  assert.deepEqual(at(shown, 'admin'), { token: '********', tokenFile })
  assert.ok(!JSON.stringify(shown).includes(SECRET))
  assert.equal(config.admin.token, TOKEN)
  assert.equal(config.upstream.url, `http://user:${SECRET}@h:1/base`)
  const { upstream: _, admin: __, ...rest } = config
  const { upstream: ___, admin: ____, ...shownRest } = Object(shown)
  assert.deepEqual(shownRest, rest)
})

const CREDENTIALS: readonly (readonly [url: string, shown: string])[] = [
  ['http://user:pa55@h:1/a', 'http://***@h:1/a'],
  ['https://user@h', 'https://***@h'],
  ['HTTP://user:pa55@h', 'HTTP://***@h'],
  ['http://user:pa55@x@h/a@b', 'http://***@h/a@b'],
  ['http://h/a@b', 'http://h/a@b'],
  ['http://h?a=b@c', 'http://h?a=b@c'],
  ['/configure', '/configure'],
]

for (const [url, shown] of CREDENTIALS) {
  test(`${url} is shown as ${shown}`, () => {
    assert.equal(withoutCredentials(url), shown)
  })
}

test('the password of a URL is not shown, whatever form is accepted', () => {
  for (const url of [
    ' http://user:pa55@h',
    'http:/user:pa55@h',
    'http:user:pa55@h',
    'http:\\\\user:pa55@h',
    'ht\ntp://user:pa55@h',
  ]) {
    const loaded = loadFrom({ flags: { 'upstream.url': url } })
    const shown = loaded.ok ? JSON.stringify(masked(loaded.config)) : explain(loaded.faults)
    assert.ok(!shown.includes('pa55'), `${JSON.stringify(url)} is shown`)
  }
})

test('TLS files that are missing or contain something else are faults', () => {
  const missing = join(directory, 'none.pem')
  const text = write('hello')
  const tls = (certFile: string, keyFile: string) => ({
    yaml: `server: {tls: {certFile: '${certFile}', keyFile: '${keyFile}'}}\nupstream: {tls: {caFile: '${certFile}'}}`,
    env: UPSTREAM,
  })
  const ENOENT = `${missing}, which does not exist (ENOENT)`
  for (const [file, given] of [
    [missing, ENOENT],
    [text, `${text}, which contains none`],
  ] as const) {
    assert.deepEqual(
      faultsOf(tls(file, file)).map(({ option, expected, given }) => [option, expected, given]),
      [
        ['server.tls.certFile', 'a PEM file with a certificate', given],
        ['server.tls.keyFile', 'a PEM file with a private key', given],
        ['upstream.tls.caFile', 'a PEM file with certificates', given],
      ],
    )
  }
})

test('a certificate and its key are accepted together, not alone and not with those of another certificate', t => {
  if (!requireOrSkip(t, 'openssl')) return
  const [one, other] = [makeCertificate('one'), makeCertificate('other')]
  const given = (tls: Readonly<Record<string, string>>) => ({
    yaml: JSON.stringify({ server: { tls } }),
    env: UPSTREAM,
  })
  assert.deepEqual(configOf(given(one)).server.tls, one)
  const optionsOf = (tls: Readonly<Record<string, string>>) =>
    faultsOf(given(tls)).map(({ option }) => option)
  assert.deepEqual(optionsOf({ certFile: one.certFile }), ['server.tls.keyFile'])
  assert.deepEqual(optionsOf({ keyFile: one.keyFile }), ['server.tls.certFile'])
  assert.deepEqual(optionsOf({ certFile: one.certFile, keyFile: other.keyFile }), ['server.tls.keyFile'])
  assert.deepEqual(optionsOf({ certFile: one.keyFile, keyFile: one.certFile }), [
    'server.tls.certFile',
    'server.tls.keyFile',
  ])
  assert.equal(
    configOf({ yaml: `upstream: {tls: {caFile: '${one.certFile}'}}`, env: UPSTREAM }).upstream.tls.caFile,
    one.certFile,
  )
})

test('faults are printed one per line, under their number', () => {
  const fault = (option: string): Fault => ({ option, source: 'a.yaml:1', expected: 'more', given: '1' })
  assert.equal(explain([fault('a')]), 'Invalid configuration:\n  a.yaml:1: a: expected more; given 1')
  assert.equal(
    explain([fault('a'), { option: 'b', source: '', expected: 'more', given: '' }]),
    'Invalid configuration (2 errors):\n  a.yaml:1: a: expected more; given 1\n  b: expected more',
  )
})

/** A self-signed certificate and its key, in files. */
function makeCertificate(name: string) {
  const folder = join(directory, name)
  mkdirSync(folder)
  const files = { certFile: join(folder, 'cert.pem'), keyFile: join(folder, 'key.pem') }
  const subject = ['-subj', `/CN=${name}.example`, '-days', '1', '-nodes']
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-keyout', files.keyFile]
  execFileSync('openssl', ['req', '-x509', ...key, '-out', files.certFile, ...subject], { stdio: 'ignore' })
  return files
}
