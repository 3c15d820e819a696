const SEGMENTS = ['-', '%2D', '%2d'] as const

/** Prefixes of the segment that some gateway or other removes. */
const BEFORE = [
  ...['/', '//', '/./', '/%2e/', '/%2f', '/../', '/x/../', '/x/%2e%2e/', '/x/..%2f', '/x%2f..%2f'],
  ...['/\\', '/%5c', '/x\\..\\', '/x/..%5c', '/x/y/../../', '/x//../../'],
] as const

/** What may come between the segment and the name of the route. */
const BEHIND = ['/', '//', '/./', '/x/../', '%2f', '%5c', '\\', '/%2e/'] as const

/** The name of the route, as it is and in other spellings, and what may follow it. */
const NAMES = [
  'clients',
  'override',
  '%6fverride',
  'override/',
  'override%2f',
  'override/.',
  'override#x',
] as const

const ORIGINS = ['', 'http://h', 'http://h:80', 'http://[::1]', 'HTTP://u@h', 'ws://h'] as const

/** A target of one of the proxy's own routes, as documented, in origin form or absolute form. */
const LITERAL = /^(?:http:\/\/[^/@]+)?(?:\/focus-server)?\/-\/\w+$/i

/**
 * Targets that some gateway or server takes for a route below `<base>/-/`, but that are spelled differently; and the
 * literal ones.
 */
export function ownSpellings(base: string): {
  readonly others: readonly string[]
  readonly literal: readonly string[]
} {
  const all = ORIGINS.flatMap(origin =>
    BEFORE.flatMap(before =>
      SEGMENTS.flatMap(segment =>
        BEHIND.flatMap(behind => NAMES.map(name => `${origin}${base}${before}${segment}${behind}${name}`)),
      ),
    ),
  )
  // The first origin in full; for the others a subset that contains each piece of a spelling.
  const some = all.filter((target, index) => target.startsWith('/') || index % 11 === 0)
  const exact = ORIGINS.slice(0, 4).flatMap(origin => [
    `${origin}${base}/-/clients`,
    `${origin}${base}/-/status`,
  ])
  return { others: some.filter(target => !LITERAL.test(target)), literal: exact }
}
