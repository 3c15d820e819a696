import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  canonicalPath,
  canonicalPaths,
  type GuardedRoute,
  guardablePath,
  isGuarded,
  literalPath,
  pathOf,
  routePath,
  withoutPrefix,
} from '../../src/domain/guarded-route.js'

const CONFIGURE: readonly GuardedRoute[] = [{ method: 'POST', path: canonicalPath('/configure') }]

/** Spellings that reach `/configure` through some intermediary or server. */
const GUARDED = [
  '/configure',
  '/configure?',
  '/configure?a=b/../c',
  '/configure#fragment',
  '/configure?a#b?c',
  '/./configure',
  '/%2e/configure',
  '/%2E/configure',
  '/.\\configure',
  '/configure/.',
  '/configure/x/..',
  '/configure%0a',
  '/configure%0Ax',
  '/configure%0a/x',
  '/configure/',
  '/configure//',
  '/configure\\',
  '/configure%2f',
  '/configure%2F%2f',
  '/configure%5c',
  '//configure',
  '///configure',
  '/\\configure',
  '\\configure',
  '/%2fconfigure',
  '/%5Cconfigure',
  '/x/../configure',
  '/x/%2e%2e/configure',
  '/x/.%2e/configure',
  '/x%2f..%2fconfigure',
  '/x\\..\\configure',
  '/../../configure',
  '/x/y/../../configure',
  '/%63onfigure',
  '/%63%6F%6e%66%69%67%75%72%65',
  'http://h/configure',
  'HTTPS://user:pw@h:443/configure',
  'http://[2001:db8::1]:80//configure?x',
  'configure',
] as const

/** Paths that do not reach it and so must pass. */
const NOT_GUARDED = [
  '/',
  '',
  '*',
  '/Configure',
  '/CONFIGURE',
  '/configured',
  '/configur',
  '/xconfigure',
  '/configure/1',
  '/x/configure',
  '/configure/../x',
  '/configure/..',
  '/configure;x=1',
  '/configure%20',
  '/configure%00',
  '/configure%3f',
  '/configure%23',
  '/configure%',
  '/configure%zz',
  '/configure%ff',
  '/%2563onfigure',
  '/%252fconfigure',
  '/%252e/configure',
  '/x/%252e%252e/configure',
  '/configure%250a',
  '/.../configure',
  '/x?/configure',
  '/#/configure',
  '/?/configure',
  '/%0a/configure',
  '//h/configure',
  'http://configure',
  'http://configure/',
  'http://h/x/configure',
  'http://h?/configure',
  '/con figure',
  '/ｃonfigure',
] as const

for (const target of GUARDED) {
  test(`${JSON.stringify(target)} is guarded`, () => {
    assert.equal(isGuarded('POST', canonicalPath(target), CONFIGURE), true)
  })
}

for (const target of NOT_GUARDED) {
  test(`${JSON.stringify(target)} is not guarded`, () => {
    assert.equal(isGuarded('POST', canonicalPath(target), CONFIGURE), false)
  })
}

test('a route is guarded for its own method', () => {
  const methods = ['POST', 'GET', 'PUT', 'post', 'OPTIONS', 'HEAD']
  assert.deepEqual(
    methods.filter(method => isGuarded(method, canonicalPath('/configure'), CONFIGURE)),
    ['POST'],
  )
})

test('a route that is guarded for GET is also guarded for HEAD, and for no other method', () => {
  const routes: readonly GuardedRoute[] = [{ method: 'GET', path: canonicalPath('/configure') }]
  const methods = ['GET', 'HEAD', 'POST', 'PUT', 'OPTIONS', '']
  assert.deepEqual(
    methods.filter(method => isGuarded(method, canonicalPath('/configure'), routes)),
    ['GET', 'HEAD'],
  )
})

test('without routes nothing is guarded', () => {
  assert.equal(isGuarded('POST', canonicalPath('/configure'), []), false)
})

const PATTERNS: readonly (readonly [pattern: string, guarded: readonly string[], not: readonly string[]])[] =
  [
    [
      '/config/:task_id',
      ['/config/1', '/config/a%2Db', '/config//1/', '/config/x/../1', '/config/:task_id'],
      ['/config', '/config/', '/config/1/2', '/Config/1', '/config/1%2f2', '/config/..'],
    ],
    ['/:a/run/:b', ['/1/run/2'], ['/1/2/run', '/run/1', '/1/run', '/1/Run/2']],
    ['/', ['/', '//', '/.', '/x/..', '*/..', 'http://h'], ['/x', '*']],
    ['/a%2fb/', ['/a/b', '/a%2Fb'], ['/ab', '/a']],
  ]

for (const [pattern, guarded, not] of PATTERNS) {
  test(`the pattern ${pattern} guards ${guarded.join(' ')} and not ${not.join(' ')}`, () => {
    const routes = [{ method: 'POST', path: canonicalPath(pattern) }]
    const guards = (target: string) => isGuarded('POST', canonicalPath(target), routes)
    assert.deepEqual([...guarded, ...not].filter(guards), guarded)
  })
}

/** Spellings that servers resolve to different paths, one of which is guarded. */
const DISPUTED = [
  // nginx treats `y\\z` as one segment, which one `..` removes.
  ...['/x/y\\z/../../configure', '/x/y%5cz/../../configure', '/x/\\../../configure', '/y\\../configure'],
  // A line feed ends the path before or after the dots are resolved.
  ...['/x%0a/../configure', '/x/%0ay/../../configure', '/configure/x%0a/..', '/%0a/../configure%0a/x'],
  ...['/a\\b%0a/../configure', '/configure', '//configure%0A', '/x\\..\\configure'],
]

for (const target of DISPUTED) {
  test(`one of the paths that ${JSON.stringify(target)} may be resolved to is guarded`, () => {
    assert.ok(canonicalPaths(target).some(path => isGuarded('POST', path, CONFIGURE)))
  })
}

test('a path that all servers resolve in the same way is one path', () => {
  assert.deepEqual(canonicalPaths('/x/../configure/'), [['configure']])
  assert.deepEqual(canonicalPaths('/a%20b'), [['a b']])
})

test('a literal path keeps dots and backslashes, and drops empty segments', () => {
  assert.deepEqual(literalPath('/config/../a\\b//%2e/?x'), ['config', '..', 'a\\b', '.'])
  assert.deepEqual(literalPath('/'), [])
})

/** How a client may send a path: non-ASCII bytes as Node shows them, or percent-encoded in either case. */
const bytesOf = (text: string) => Buffer.from(text).toString('latin1')
const encoded = (text: string, pick: (hex: string) => string) =>
  [...Buffer.from(text)]
    .map(byte => (byte < 0x80 ? String.fromCharCode(byte) : `%${pick(byte.toString(16))}`))
    .join('')

for (const letters of ['größe', 'конфиг', '設定', 'naïve', 'e\u0301', '😀', 'a%C3%A9b']) {
  test(`a route with ${letters} guards every spelling of it, and nothing else`, () => {
    const routes = [{ method: 'POST', path: routePath(`/x/${letters}`) }]
    const guards = (target: string) =>
      [...canonicalPaths(target), literalPath(target)].some(path => isGuarded('POST', path, routes))
    assert.equal(guardablePath(`/x/${letters}`), undefined)
    const name = decodeURIComponent(letters)
    const spellings = [
      bytesOf(name),
      encoded(name, hex => hex.toUpperCase()),
      encoded(name, hex => hex),
      [...Buffer.from(name)].map(byte => `%${byte.toString(16)}`).join(''),
    ]
    for (const spelled of spellings) {
      for (const [before, after] of [
        ['/x/', ''],
        ['//x/./', '/'],
        ['/%78/y/../', '?a'],
        ['http://h/x%2F', '%0a'],
      ]) {
        assert.ok(guards(`${before}${spelled}${after}`), `${before}${spelled}${after}`)
      }
      assert.ok(!guards(`/x/${spelled}x`))
      assert.ok(!guards(`/x/${spelled.slice(0, -1)}`))
    }
  })
}

/** Paths of routes that cannot be guarded, in every spelling, and a part of the reason. */
const UNGUARDABLE: readonly (readonly [reason: RegExp, paths: readonly string[]])[] = [
  [/query/, ['/configure?x=1', '/configure?', '/configure#x', '/?', '/a/#']],
  [
    /control/,
    ['/configure\n', '/con\tfigure', '/a\0', '/a\x7f', '/a\x85', '/a%00', '/a%0a', '/%0Dx', '/a%1F', '/a%7f'],
  ],
  [/whitespace/, ['/con figure', '/configure ', '/ configure', '/a\u00a0b', '/a\u2003', '/a\ufeff']],
  [/hexadecimal/, ['/100%', '/a%zz', '/a%2', '/%%41', '/%u00e9']],
  [/backslash/, ['/a\\b', '\\a', '/a%5cb', '/a%5C']],
  [/:name/, ['/jobs/*', '/*', '/config/{task_id}', '/config/<id>', '/{a']],
  [/colon/, ['/%3aname', '/a/%3A', '/a%2f%3ab']],
  [/complete characters/, ['/a\ud800', '/\udc00b']],
  [/\. and \.\./, ['/.', '/..', '/./configure', '/a/../b', '/a/%2e%2E', '/a/.%2e/', '/a%2f..']],
  [/focus-breaker's own/, ['/-', '/-/', '/-/status', '//-/x', '/%2d/x', '/%2F-']],
]

for (const [reason, paths] of UNGUARDABLE) {
  test(`a route with one of the paths ${JSON.stringify(paths)} is refused`, () => {
    for (const path of paths) assert.match(guardablePath(path) ?? 'nothing', reason, JSON.stringify(path))
  })
}

const GUARDABLE = [
  ...[
    '/',
    '/configure',
    '/configure/',
    '//configure',
    '/config/:task_id',
    '/:a/:b',
    '/a:b',
    '/v1/jobs:cancel',
  ],
  ...[
    '/a%2fb',
    '/a%20b',
    '/100%25',
    '/a;b=c',
    "/~!$&'()+,;=@_",
    '/...',
    '/.a',
    '/a..',
    '/-a',
    '/a/-/b',
    '/:',
    '/größe',
  ],
]

for (const path of GUARDABLE) {
  test(`a route with the path ${path} guards a request for it`, () => {
    assert.equal(guardablePath(path), undefined)
    const routes = [{ method: 'POST', path: routePath(path) }]
    const sent = encodeURI(path).replaceAll('%25', '%')
    assert.ok([...canonicalPaths(sent), literalPath(sent)].some(each => isGuarded('POST', each, routes)))
  })
}

test('for any path of a route: it is refused, or guards the request that a client sends for it', () => {
  const anyPath = fc
    .array(
      fc.oneof(
        fc.string({ maxLength: 3, unit: 'binary' }),
        fc.constantFrom(
          '/',
          '%',
          '%2f',
          '%5c',
          '%41',
          '%ff',
          '%0a',
          '.',
          '..',
          '\\',
          '?',
          '#',
          ':',
          '-',
          'é',
        ),
      ),
      { maxLength: 6 },
    )
    .map(parts => `/${parts.join('')}`)
  let guarded = 0
  fc.assert(
    fc.property(anyPath, path => {
      if (guardablePath(path) !== undefined) return
      guarded += 1
      const routes = [{ method: 'POST', path: routePath(path) }]
      // As a browser or `requests` sends it: encoded characters stay, and others are encoded if necessary.
      const { pathname } = new URL(`http://h${path.replace(/^\/+/, '/')}`)
      for (const sent of [pathname, bytesOf(path)]) {
        assert.ok(
          [...canonicalPaths(sent), literalPath(sent)].some(each => isGuarded('POST', each, routes)),
          sent,
        )
      }
    }),
    { numRuns: 3000 },
  )
  assert.ok(guarded > 100, `only ${guarded} were guarded`)
})

const PATHS: readonly (readonly [target: string, path: string])[] = [
  ['/a/b?c#d', '/a/b'],
  ['/a#d?c', '/a'],
  ['http://u:p@h:1/a?b', '/a'],
  ['http://h', ''],
  ['http://h?b', ''],
  ['/http://h/a', '/http://h/a'],
  ['*', '*'],
]

for (const [target, path] of PATHS) {
  test(`the path of ${target} is '${path}', as it was sent`, () => {
    assert.equal(pathOf(target), path)
  })
}

const PREFIXES: readonly (readonly [path: string, prefix: string, left: string])[] = [
  ['/focus-server/configure', '/focus-server', '/configure'],
  ['/configure', '/focus-server', '/configure'],
  ['/Focus-SERVER/Configure', '/focus-server', '/Configure'],
  ['/focus-server/configure', '/Focus-Server', '/configure'],
  ['/focus-server', '/focus-server', '/'],
  ['/focus-servers/configure', '/focus-server', '/focus-servers/configure'],
  ['/a/b/configure', '/a/b', '/configure'],
  ['/a/configure', '/a/b', '/a/configure'],
  ['/focus-server/focus-server/x', '/focus-server', '/focus-server/x'],
  ['/a', '', '/a'],
]

for (const [path, prefix, left] of PREFIXES) {
  test(`${path} without the prefix '${prefix}' is ${left}`, () => {
    assert.deepEqual(withoutPrefix(canonicalPath(path), canonicalPath(prefix)), canonicalPath(left))
  })
}

/** One character, as itself where a path allows it, or percent-encoded in either case. */
function anySpellingOf(character: string): fc.Arbitrary<string> {
  const hex = character.charCodeAt(0).toString(16).padStart(2, '0')
  const encoded = [`%${hex}`, `%${hex.toUpperCase()}`]
  return fc.constantFrom(...(/[\w~!$&'()*+,;=:@.-]/.test(character) ? [character, ...encoded] : encoded))
}

const anySlash = fc.constantFrom('/', '\\', '%2f', '%2F', '%5c', '%5C')
const anyDot = fc.constantFrom('.', '%2e', '%2E')
/** Text between two segments that has no effect: slashes, `.`, and a segment that `..` removes. */
const anyDetour = fc.oneof(
  fc.constant(''),
  anySlash,
  fc.tuple(anyDot, anySlash).map(parts => parts.join('')),
  fc
    .tuple(fc.constantFrom('x', 'configure', '%20'), anySlash, anyDot, anyDot, anySlash)
    .map(parts => parts.join('')),
)
const anySeparator = fc
  .tuple(anySlash, fc.array(anyDetour, { maxLength: 3 }))
  .map(([slash, detours]) => slash + detours.join(''))
const anyStart = fc.tuple(
  fc.constantFrom('', 'http://h', 'HTTP://u:p@h:8080', 'https://[::1]:1', 'a+b.c-d://h'),
  // Text after an authority has to start with a slash, or it would belong to the authority.
  fc.array(anyDetour, { maxLength: 2 }).map(detours => `/${detours.join('')}`),
)
const anyEnd = fc
  .tuple(
    fc.constantFrom('', '/', '//', '\\', '%2f', '/.', '%5c%2e'),
    fc.constantFrom('', '%0a', '%0A/x', '%0a%0a..'),
    fc.constantFrom('', '?', '?a=/x/..', '#', '#a?b', '?%0a'),
  )
  .map(parts => parts.join(''))

/** Any spelling of the path with these segments. */
function anySpelling(segments: readonly string[]): fc.Arbitrary<string> {
  const spelled = segments.map((segment, index) =>
    fc
      .tuple(index === 0 ? fc.constant('') : anySeparator, ...[...segment].map(anySpellingOf))
      .map(parts => parts.join('')),
  )
  return fc
    .tuple(
      anyStart.map(parts => parts.join('')),
      fc.tuple(...spelled).map(parts => parts.join('')),
      anyEnd,
    )
    .map(parts => parts.join(''))
}

/** Any segments of printable ASCII without separators, terminators and dot segments. */
const anySegments = fc.array(
  fc
    .string({
      unit: fc.integer({ min: 0x20, max: 0x7e }).map(code => String.fromCharCode(code)),
      minLength: 1,
      maxLength: 8,
    })
    .filter(segment => !/[/\\]/.test(segment) && segment !== '.' && segment !== '..'),
  { maxLength: 4 },
)

test('for any spelling: /configure is guarded', () => {
  fc.assert(
    fc.property(anySpelling(['configure']), target => {
      assert.equal(isGuarded('POST', canonicalPath(target), CONFIGURE), true)
    }),
    { numRuns: 2000 },
  )
})

test('for any spelling: a path is identified by its segments, decoded once', () => {
  fc.assert(
    fc.property(
      anySegments.chain(segments => anySpelling(segments).map(target => ({ segments, target }))),
      ({ segments, target }) => {
        assert.deepEqual(canonicalPath(target), segments)
      },
    ),
    { numRuns: 1000 },
  )
})

test('for any spelling: a path with another segment in place of configure is not guarded', () => {
  const anyOther = fc.oneof(
    fc.constantFrom(
      'Configure',
      'configured',
      'configure;x=1',
      'configure ',
      '%63onfigure',
      'configure%2f',
      'configure?',
    ),
    anySegments.map(([segment = 'x']) => segment).filter(segment => segment !== 'configure'),
  )
  fc.assert(
    fc.property(
      anyOther.chain(other => anySpelling([other])),
      target => {
        assert.equal(isGuarded('POST', canonicalPath(target), CONFIGURE), false)
      },
    ),
    { numRuns: 1000 },
  )
})
