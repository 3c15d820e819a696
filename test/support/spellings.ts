import type { Random } from './seeded.js'

const NAME = 'configure'

/** What may precede the name: separators, resolved and other segments, in every encoding. */
const LEADS = [
  ...['/', '//', '///', '/./', '/%2e/', '/%2E/', '/.%2f', '/../', '/..%2f', '/x/../', '/x/%2e%2e/'],
  ...['/x/.%2e/', '/x/%2E./', '/x%2f..%2f', '/x/y/../../', '/x//../', '/x//..//', '/%2f', '/%2F', '/%2f%2f'],
  ...['/\\', '\\', '/.\\', '/..\\', '/x\\..\\', '/x/..\\', '/%5c', '/x%5c..%5c', '/;/', '/;a=b/', '/x;y/../'],
  ...[
    '/x/..;/',
    '/..;/',
    '/.;/',
    '/%252f',
    '/%252e/',
    '/x/%252e%252e/',
    '/%25%32%66',
    '/%c0%af',
    '/%e0%80%af',
  ],
  ...['/x/%c0%ae%c0%ae/', '/%c0%2f', '/%ef%bc%8f', '/%u002f', '/%uff0f', '/%00', '/%00/', '/%09', '/%0a'],
  ...['/%0d', '/%20', '/%20/', '/+/', '/x/', '/x%2f', '/~/', '/.../', '/.%00/', '/channels/../', '/-/'],
  ...['/-/../', '/-/status/../../', '/%2d/', '/focus-server/', '/../focus-server/', '/FOCUS-SERVER/'],
  ...[
    '/x%0a/../',
    '/%0a/../',
    '/x/%0ay/../../',
    '/x/y\\z/../../',
    '/x/y%5cz/../../',
    '/x/\\../../',
    '/x/%5c/../../',
  ],
  ...['/x/../../focus-server/', '/../%66ocus-server/', '/focus-server/../', '', '*', '/*/', '/?/', '/#/'],
] as const

/** What may follow it. */
const TAILS = [
  ...['', '/', '//', '/.', '/./', '/..', '/x/..', '/x/../', '/%2e', '/%2e%2e', '/x/%2e%2e', '%2f', '%2F'],
  ...['%2f%2f', '%2f.', '\\', '\\.', '%5c', ';', ';x=1', ';x=1/', ';/..', ';a=b;c=d', '%3b', '%3bx', '/;'],
  ...['/;x', '?', '?x=1', '?/../x', '?#', '??', '%3f', '%3fx', '#', '#x', '#?', '#/../x', '%23', '%23x'],
  ...['%00', '%00x', '%00/', '%0a', '%0A', '%0ax', '%0a/', '%0a%0a', '/%0a', '%2f%0a', '%0a?x=1', '%0d'],
  ...[
    '%0d%0a',
    '%0d%0ax',
    '%09',
    '%0b',
    '%0c',
    '%1c',
    '%7f',
    '%20',
    '%20/',
    '+',
    '%85',
    '%a0',
    '%ff',
    '%c2%85',
  ],
  ...[
    '%e2%80%a8',
    '%c0%80',
    '%c0%8a',
    '%c0%af',
    '%u000a',
    '%250a',
    '%252f',
    '%2500',
    '%25',
    '%',
    '%2',
    '%zz',
  ],
  ...[
    '%2x',
    '.',
    '..',
    '%2e',
    '...',
    '~',
    '*',
    '/*',
    '.json',
    '/1',
    'd',
    'x/../../configure',
    '/../configure',
  ],
  ...[
    '?_method=GET',
    '&x=1',
    '=',
    '|',
    '`',
    '"',
    '<',
    '{',
    '^',
    '\t',
    '\x00',
    '\x7f',
    '\x80',
    '\xff',
    '\xc3\xa9',
  ],
] as const

/** Scheme and authority; usually there is none. */
const PRELUDES = [
  ...[
    'http://h',
    'HTTP://h',
    'http://h:80',
    'http://u:p@h',
    'https://h',
    'ws://h',
    'x+y.-1://h',
    'http://[::1]',
  ],
  ...['http://', 'http:///', 'http:/', 'http:', 'file://', '//h', 'http://h?', 'http://h#', 'http://h\\'],
  ...['http://h/x/..', 'http%3a//h', 'h:80', '/http://h'],
] as const

/** One spelling of the guarded path or of something close to it. Never with a literal space, CR or LF. */
export function spelling(random: Random): string {
  const prelude = random.chance(0.1) ? random.pick(PRELUDES) : ''
  const leads = random.chance(0.35) ? '/' : several(random, LEADS)
  const tails = random.chance(0.35) ? '' : several(random, TAILS)
  const target = prelude + leads + name(random) + tails
  return random.chance(0.08) ? spoiled(random, target) : target
}

/** This many different spellings, in the order in which they were made. */
export function spellings(random: Random, count: number): readonly string[] {
  const made = new Set<string>()
  while (made.size < count) made.add(spelling(random))
  return [...made]
}

function several(random: Random, from: readonly string[]): string {
  let text = random.pick(from)
  while (random.chance(0.2)) text += random.pick(from)
  return text
}

function name(random: Random): string {
  if (random.chance(0.45)) return NAME
  const share = random.pick([0.1, 0.1, 0.3, 1])
  const ways = random.chance(0.5) ? WAYS.slice(0, 2) : WAYS
  return [...NAME].map(letter => (random.chance(share) ? random.pick(ways)(letter) : letter)).join('')
}

const hex = (letter: string, digits = 2) => letter.charCodeAt(0).toString(16).padStart(digits, '0')

/** The spellings of a letter; the first two are the same letter to every reader. */
const WAYS: readonly ((letter: string) => string)[] = [
  letter => `%${hex(letter)}`,
  letter => `%${hex(letter).toUpperCase()}`,
  letter => letter.toUpperCase(),
  letter => `%${hex(letter.toUpperCase())}`,
  letter => `%25${hex(letter)}`,
  letter => `%2525${hex(letter)}`,
  letter => `%%3${hex(letter)[0]}${hex(letter)[1]}`,
  letter => `%c1%${(0x80 | (letter.charCodeAt(0) & 0x3f)).toString(16)}`,
  letter => `%e0%81%${(0x80 | (letter.charCodeAt(0) & 0x3f)).toString(16)}`,
  letter => `%${(letter.charCodeAt(0) | 0x80).toString(16)}`,
  letter => `%u${hex(letter, 4)}`,
  letter => `%ef%bd%${(letter.charCodeAt(0) + 0x20).toString(16)}`,
  letter => `\\u${hex(letter, 4)}`,
  letter => `&#${letter.charCodeAt(0)};`,
  letter => `${letter}%00`,
  letter => `${letter}%cc%81`,
  letter => `${letter}%08`,
  () => '',
]

/** One letter more or less, anywhere. */
function spoiled(random: Random, target: string): string {
  const at = random.integer(0, target.length)
  const extra = random.pick([
    ...[
      '%00',
      '%0a',
      '%0d',
      '%09',
      '%20',
      '%7f',
      '%',
      ';',
      '/',
      '\\',
      '.',
      '?',
      '#',
      '%2f',
      '%5c',
      '%c0',
      '\x01',
      '',
    ],
  ])
  return target.slice(0, at) + extra + target.slice(extra === '' ? at + 1 : at)
}
