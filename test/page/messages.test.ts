import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { pathToFileURL } from 'node:url'
import { repositoryRoot } from '../support/harness.js'

const folder = join(repositoryRoot, 'page')
const read = (name: string) => readFileSync(join(folder, name), 'utf8')
/** The page's own modules. The page has no build step, so they are loaded unchanged. */
const load = async (name: string) => await import(pathToFileURL(join(folder, name)).href)

const { formatsOf } = await load('formats.js')
const { english } = await load('messages-en.js')
const { hebrew } = await load('messages-he.js')

/** Formats that mark their output, so that a placeholder can be found in a sentence. */
const markingFormats = (language: string) => {
  const mark = (value: unknown) => `‹${value}›`
  const { plural } = formatsOf(language, language)
  return {
    ...{ count: mark, duration: mark, seconds: mark },
    plural: (value: number, forms: Readonly<Record<string, string>>) =>
      plural(
        value,
        Object.fromEntries(Object.entries(forms).map(([name, form]) => [name, form.replace('#', mark('#'))])),
      ).replace(/‹[^›]*›/, mark(value)),
  }
}

const en = english(markingFormats('en'))
const he = hebrew(markingFormats('he'))

/** Every text of a catalogue, and every function that returns one, by its name; nested ones as `a.b`. */
function entriesOf(catalogue: object, prefix = ''): readonly (readonly [name: string, text: unknown])[] {
  return Object.entries(catalogue).flatMap(([name, text]) =>
    typeof text === 'object' && text !== null
      ? entriesOf(text, `${prefix}${name}.`)
      : [[`${prefix}${name}`, text] as const],
  )
}

const LASTED = new Map([
  ['ready', 5001],
  ['waiting', 5002],
])

/** The arguments of each text with placeholders. Numbers are large, because a small one may be written as a word. */
const ARGUMENTS: Readonly<Record<string, readonly (readonly unknown[])[]>> = {
  noContactSince: [['‹time›']],
  asOf: [['‹time›']],
  title: [
    ['‹headline›', '‹name›'],
    ['‹headline›', undefined],
  ],
  about: [['‹version›', '‹zone›']],
  since: [['‹time›', '‹running›']],
  withinOutage: [[['‹since›']]],
  until: [['‹time›', '‹running›']],
  ago: [['‹length›']],
  overrideSetAt: [
    ['‹time›', '‹by›', true],
    ['‹time›', '‹by›', false],
  ],
  readingsSay: [['‹headline›', ['‹since›']]],
  lastOutage: [
    ['‹time›', 5000, 301, 0],
    ['‹time›', 5000, 0, 302],
    ['‹time›', 5000, 301, 302],
  ],
  requests: [[301]],
  refusedAndSpared: [
    ['‹requests›', 301, 0, true],
    ['‹requests›', 301, 302, true],
    ['‹requests›', 301, 205, true],
    ['‹requests›', 301, 205, false],
    ['‹requests›', 301, 301, true],
    ['‹requests›', 301, 301, false],
    ['‹requests›', 1, 1, true],
  ],
  wouldRefuseNone: [['‹since›']],
  wouldHaveBeenRefused: [
    ['‹requests›', 301, '‹since›', 0, false, '‹option›'],
    ['‹requests›', 301, '‹since›', 302, false, '‹option›'],
    ['‹requests›', 301, '‹since›', 302, true, '‹option›'],
  ],
  decidedByFields: [[['‹fields›']]],
  toDoUnreachable: [['‹url›']],
  fewAtATime: [
    ['waiting', true],
    ['unreachable', false],
  ],
  fiberUnknown: [['‹problem›']],
  forecast: [
    ['waiting', '‹median›', 5000, 301, 'low'],
    ['unreachable', '‹median›', 5000, 301, 'fair'],
    [null, '‹median›', 5000, 301, 'good'],
  ],
  contradictionWhy: [[['‹since›'], '‹fields›']],
  lastMinutes: [[15], [180]],
  overReadings: [['‹words›', '‹readings›']],
  spanTip: [['‹state›', '‹from›', 5000]],
  statesLabel: [
    ['‹from›', '‹to›', LASTED, 0],
    ['‹from›', '‹to›', LASTED, 301],
  ],
  refusedSum: [
    [301, 302, '‹at›', '‹since›', 0],
    [301, 302, '‹at›', '‹since›', 303],
  ],
  chartLabel: [['‹title›', '‹from›', '‹to›', '‹words›']],
  barTip: [
    ['‹at›', 301, 0],
    ['‹at›', 301, 302],
  ],
  inARow: [[301]],
  fieldIs: [
    ['‹name›', '‹value›'],
    ['‹name›', undefined],
  ],
  ofThem: [[301, '‹span›']],
  countsSinceStart: [['‹time›']],
  countsSince: [['‹time›']],
  replicasJoined: [
    ['‹name›', 301, true],
    ['‹name›', 301, false],
    ['‹name›', 1, true],
  ],
  replicasAlone: [['‹name›', '‹problem›']],
  clientsNone: [[301]],
  clientsSince: [
    ['‹time›', true],
    ['‹time›', false],
  ],
  noClientSince: [
    ['‹time›', true],
    ['‹time›', false],
  ],
  otherClients: [[301]],
  moreClients: [[301], [0]],
  cadence: [[null], [0], [301]],
  outagesSum: [
    [301, '‹since›', 302, 0],
    [301, '‹since›', 302, 303],
  ],
  outageLabel: [['‹cause›']],
  outageSpan: [
    ['‹from›', '‹to›', '‹lasted›'],
    ['‹from›', undefined, '‹lasted›'],
  ],
  outageCounts: [
    [301, 0, 302],
    [301, 302, 303],
  ],
  outageSpared: [
    [0, 301],
    [301, 301],
    [301, 302],
  ],
  overrideIn: [['‹reason›', '‹by›', ['‹end›']]],
  refusedPer: [
    [1, true],
    [301, false],
  ],
  sumLabel: [['‹heading›', 301]],
  atUnknownTime: [[301]],
  omittedChanges: [[301]],
  moreLetIn: [[301]],
  dataAs: [['‹json›', '‹csv›']],
  reportTitle: [[1], [301]],
  reportPeriod: [['‹from›', '‹to›']],
  reportObserved: [
    [5000, 6000, '‹since›'],
    [5000, 0, undefined],
  ],
  reportOtherPhases: [[['‹one›', '‹two›']]],
  reportLongestOutage: [['‹link›', '‹length›', '‹cause›']],
  reportAbsences: [
    [0, '‹longest›'],
    [301, '‹longest›'],
  ],
  reportSpared: [[301, 302]],
  reportAssumption: [[301, 302, 303]],
  reportTip: [
    ['‹from›', '‹part›'],
    ['‹from›', undefined],
  ],
  reportChart: [
    ['‹heading›', '‹part›'],
    ['‹heading›', undefined],
  ],
  reportMade: [['‹at›']],
  standing: [['‹action›', ['‹until›'], '‹reason›']],
  endsAt: [['‹time›']],
  overrideEnd: [
    ['‹time›', 'expired', '‹by›'],
    ['‹time›', 'removed', '‹by›'],
    ['‹time›', 'replaced', undefined],
    ['‹time›', undefined, undefined],
  ],
  nothingChanged: [['‹why›']],
  responseWas: [['‹status›']],
}

/** A text as the reader sees it. */
const textOf = (text: unknown, given: readonly unknown[] = []): string => {
  const words: unknown = typeof text === 'function' ? text(...given) : text
  return Array.isArray(words) ? words.flat(9).join('') : String(words)
}
const placeholders = (words: string) => [...words.matchAll(/‹[^›]*›/g)].map(([found]) => found).sort()

/** Every sentence of a catalogue, with its name. */
const sentencesOf = (catalogue: object) =>
  entriesOf(catalogue).flatMap(([name, text]) =>
    typeof text === 'function'
      ? (ARGUMENTS[name] ?? []).map(given => [name, textOf(text, given)] as const)
      : [[name, textOf(text)] as const],
  )

describe('the catalogues of the page', () => {
  test('have the same texts', () => {
    const kinds = (catalogue: object) => entriesOf(catalogue).map(([name, text]) => [name, typeof text])
    assert.deepEqual(kinds(he), kinds(en))
    assert.ok(entriesOf(en).length > 200)
  })

  test('have the same placeholders in each text', () => {
    const ofHebrew = new Map(entriesOf(he))
    const functions = entriesOf(en).filter(([, text]) => typeof text === 'function')
    assert.deepEqual(functions.map(([name]) => name).sort(), Object.keys(ARGUMENTS).sort())
    for (const [name, text] of functions) {
      for (const given of ARGUMENTS[name] ?? []) {
        const [one, other] = [textOf(text, given), textOf(ofHebrew.get(name), given)]
        assert.deepEqual(placeholders(other), placeholders(one), `${name}: ${one} / ${other}`)
      }
    }
  })

  test('have whole sentences: no empty text, no double spaces, no stray punctuation', () => {
    for (const catalogue of [en, he]) {
      for (const [name, words] of sentencesOf(catalogue)) {
        if (name !== 'moreClients') assert.notEqual(words.trim(), '', name)
        assert.doesNotMatch(words, / {2}|undefined|null|NaN|\[object|#|\.\.| [,.;:]/, name)
      }
    }
  })

  test('have a plural form for every number', () => {
    const counting = [
      'requests',
      'lastMinutes',
      'moreLetIn',
      'atUnknownTime',
      'omittedChanges',
      'clientsNone',
    ]
    for (const [of, language] of [
      [english, 'en'],
      [hebrew, 'he'],
    ] as const) {
      const catalogue = of(formatsOf(language, language))
      for (const name of counting) {
        const forms = [1, 2, 3, 20, 100].map(number => textOf(catalogue[name], [number]))
        assert.equal(new Set(forms).size, 5, forms.join(' / '))
        assert.match(String(forms[2]), /3/)
      }
    }
    const exact = hebrew(formatsOf('he', 'he-IL'))
    assert.deepEqual([1, 2, 3].map(exact.requests), ['בקשה אחת', 'שתי בקשות', '3 בקשות'])
    assert.deepEqual([60, 120, 180].map(exact.lastMinutes), [
      'השעה האחרונה',
      'השעתיים האחרונות',
      '3 השעות האחרונות',
    ])
  })

  test('have sentences for one, two and no requests', () => {
    const en = english(formatsOf('en', 'en-GB'))
    const he = hebrew(formatsOf('he', 'he-IL'))
    const plain = (name: string, given: readonly unknown[]) => ({
      en: textOf(en[name], given),
      he: textOf(he[name], given).replace(/\u2060/g, ''),
    })
    const ROWS: readonly (readonly [name: string, given: readonly unknown[], en: RegExp, he: RegExp])[] = [
      [
        'refusedAndSpared',
        ['R', 1, 1, true],
        /^R refused\. focus-server did not receive it\.$/,
        /נדחתה ולא הגיעה אל/,
      ],
      ['refusedAndSpared', ['R', 1, 1, false], /^R refused while focus-server was up\.$/, /נדחתה בזמן ש/],
      ['refusedAndSpared', ['R', 3, 1, true], /^R refused, 1 of them while/, /נדחו, אחת מהן בזמן/],
      ['refusedAndSpared', ['R', 3, 2, true], /^R refused, 2 of them while/, /נדחו, שתיים מהן בזמן/],
      ['refusedAndSpared', ['R', 2, 2, true], /received none of them\.$/, /נדחו ולא הגיעו/],
      [
        'wouldHaveBeenRefused',
        ['R', 1, 'S', 1, false, 'O'],
        /, from 1 client; it was forwarded/,
        /; היא הועברה אל/,
      ],
      [
        'wouldHaveBeenRefused',
        ['R', 2, 'S', 1, false, 'O'],
        /; all of them were forwarded/,
        /; כולן הועברו אל/,
      ],
      ['outageSpared', [1, 1], /was up, and the request did not reach it\.$/, /והיא לא הגיעה אליו\.$/],
      ['outageSpared', [2, 2], /was up, and none of them reached it\.$/, /ואף אחת מהן לא הגיעה אליו\.$/],
      [
        'outageSpared',
        [1, 2],
        /1 of them, which did not reach it; the other came/,
        /אחת מהן הגיעה .* ולא הועברה אליו; האחרת הגיעה/,
      ],
      [
        'outageSpared',
        [2, 4],
        /2 of them, and none of these reached it; the others/,
        /שתיים מהן הגיעו .* ולא הועברו אליו; האחרות/,
      ],
      [
        'reportSpared',
        [0, 1],
        /^The only refused attempt did not come .* up\.$/,
        /^הניסיון היחיד שנדחה לא הגיע/,
      ],
      [
        'reportSpared',
        [0, 5],
        /^None of the 5 refused attempts came .* up\.$/,
        /^אף אחד מ-5 הניסיונות שנדחו לא הגיע/,
      ],
      [
        'reportSpared',
        [1, 1],
        /^The only refused attempt came .* reject this attempt\.$/,
        /^הניסיון היחיד שנדחה הגיע .* לדחות אותו/,
      ],
      [
        'reportSpared',
        [1, 2],
        /^1 of 2 refused attempts came .* reject this attempt\.$/,
        /^מתוך שני ניסיונות שנדחו, אחד הגיע .* אותו/,
      ],
      [
        'reportSpared',
        [2, 1000],
        /^2 of 1,000 refused attempts came .* reject them\.$/,
        /^מתוך 1,000 ניסיונות שנדחו, שניים הגיעו .* אותם/,
      ],
      [
        'reportAssumption',
        [1, 3, 1],
        /that it would have .* as the only guarded request that/,
        /שהוא היה נמשך כמו הבקשה המוגנת היחידה שעליה /,
      ],
      [
        'reportAssumption',
        [2, 3, 11],
        /each of them .* median of the 11 guarded requests that/,
        /שכל אחד מהם .* החציון של 11 הבקשות המוגנות שעליהן /,
      ],
      ['refusedSum', [5, 3, 'A', 'S', 1], /; 1 more would have been refused$/, /; עוד אחת הייתה נדחית$/],
      ['barTip', ['A', 1, 2], /^A: 1 refused, 2 would have been refused$/, /^A: אחת נדחתה, שתיים היו נדחות$/],
      ['barTip', ['A', 0, 11], /^A: 0 refused, 11 would have been refused$/, /^A: 0 נדחו, 11 היו נדחות$/],
    ]
    for (const [name, given, inEnglish, inHebrew] of ROWS) {
      const words = plain(name, given)
      assert.match(words.en, inEnglish, name)
      assert.match(words.he, inHebrew, name)
    }
  })

  test('name a state inside a sentence without a second colon', () => {
    for (const catalogue of [en, he]) {
      for (const name of ['recoveringNext', 'starting']) {
        assert.equal(textOf(catalogue[`${name}Clause`]), textOf(catalogue[name]).replace(':', ','))
      }
      for (const state of [
        'ready',
        'waiting',
        'unreachable',
        'recovering',
        'recoveringNextClause',
        'startingClause',
      ]) {
        const sentence = textOf(catalogue.readingsSay, [catalogue[state], ['since 3 o’clock']])
        assert.equal(sentence.split(':').length, 2, sentence)
      }
    }
  })

  test('explain each state of the circuit by the name that the documents use, too', () => {
    for (const catalogue of [en, he]) {
      assert.match(catalogue.meaningClosed, /closed/i)
      assert.match(catalogue.meaningOpen, /open/i)
      assert.match(catalogue.meaningRecovering, /half-open/)
      // It can be found while the explanation is closed.
      assert.match(catalogue.meaningTitle, /half-open/)
    }
  })

  test('are each in their own language: only names stay as they are', () => {
    const NAMES =
      /focus-\u2060?(?:server|breaker)|POST\u00a0\/configure|Retry-After|half-open|closed|open|configure|observe|enforce|JSON|UTC|admin\.token|history\.file|user agent/g
    for (const [name, words] of sentencesOf(he)) {
      const rest = words.replace(/‹[^›]*›/g, '').replace(NAMES, '')
      assert.doesNotMatch(rest, /[a-z]/i, name)
    }
    for (const [name, words] of sentencesOf(en)) assert.doesNotMatch(words, /[\u0590-\u05ff]/, name)
    // Across a line break the parts of a name would read in the wrong order. A title has one line.
    for (const [name, words] of sentencesOf(he)) {
      if (name !== 'title') assert.doesNotMatch(words, /focus-(?:server|breaker)/, name)
    }
    // The legend quotes texts of the page.
    for (const catalogue of [en, he]) {
      for (const name of ['meaningClosedIs', 'meaningOpenIs', 'meaningRecoveringIs']) {
        assert.ok(catalogue[name].includes(catalogue.ready), name)
      }
      assert.ok(catalogue.meaningOpenIs.includes(catalogue.waiting))
    }
  })

  test('hold every text of the documents and scripts', () => {
    for (const document of ['index.html', 'report.html']) {
      const html = read(document).replace(/<!--.*?-->/gs, ' ')
      const named = [...html.matchAll(/data-(?:text|label)="(\w+)"/g)].map(([, name = '']) => name)
      assert.ok(named.length > 20)
      for (const name of named) assert.equal(typeof en[name], 'string', `${document}: ${name}`)
      assert.doesNotMatch(html, /\s(?:aria-label|title|placeholder|alt)=/, document)
      // Our own names and those of routes are the same in every language. No script writes the sentences in noscript.
      const words = html
        .replace(/<(script|noscript)>.*?<\/\1>|<nav .*?<\/nav>|<[^>]*>/gs, ' ')
        .match(/[a-z\u0590-\u05ff-]{2,}/gi)
      assert.deepEqual(
        [...new Set(words)].filter(word => !['focus-breaker', 'focus-server'].includes(word)),
        [],
      )
      const noscript = /<noscript>.*?<\/noscript>/s.exec(html)?.[0] ?? ''
      assert.match(noscript, /<p lang="en" dir="ltr">[\s\S]*<p lang="he" dir="rtl">/)
    }
    const style = ['style.css', 'report.css'].map(read).join('\n')
    const classes = new Set([...style.matchAll(/\.([a-z][\w-]*)/g)].map(([, name]) => name))
    const scripts = readdirSync(folder).filter(name => name.endsWith('.js') && !name.startsWith('messages-'))
    assert.ok(scripts.length > 10)
    for (const name of scripts) {
      const code = read(name).replace(/\/\*[\s\S]*?\*\/|\/\/.*/g, '')
      assert.doesNotMatch(code, /[\u0590-\u05ff]/, name)
      const sentences = [...code.matchAll(/'([^'\n]*)'|`([^`]*)`/g)]
        .map(([, quoted, template]) => (quoted ?? template ?? '').replace(/\$\{[^}]*\}/g, ''))
        .filter(literal => /[A-Z][a-z]+ [a-z]|[a-z]{2,} [a-z]{2,}/.test(literal))
        .filter(literal => !/^(?:<svg|[.#[])/.test(literal))
        .filter(literal => literal.split(' ').some(word => !classes.has(word)))
      assert.deepEqual(sentences, [], name)
    }
  })
})

describe('durations', () => {
  const ROWS: readonly (readonly [seconds: number, english: string, hebrew: string])[] = [
    [0, '0 sec', '0 שנ׳'],
    [59, '59 sec', '59 שנ׳'],
    [60, '1 min', '1 דק׳'],
    [65, '1 min 5 sec', '1 דק׳ 5 שנ׳'],
    [2378, '39 min', '39 דק׳'],
    [7200, '2 hr', 'שעתיים'],
    [7380, '2 hr 3 min', 'שעתיים 3 דק׳'],
    [97_200, '1 day 3 hr', '1 יום 3 שע׳'],
  ]
  for (const [seconds, inEnglish, inHebrew] of ROWS) {
    test(`${seconds} seconds are ${inEnglish}`, () => {
      const written = (language: string, locale: string) =>
        formatsOf(language, locale)
          .duration(seconds * 1000)
          // Versions of ICU differ in invisible marks.
          .replace(/[\u200e\u200f\u00a0]/g, (mark: string) => (mark === '\u00a0' ? ' ' : ''))
      assert.equal(written('en', 'en-US'), inEnglish)
      assert.equal(written('en', 'en-GB'), inEnglish)
      assert.equal(written('he', 'he-IL'), inHebrew)
    })
  }

  test('times on a 24-hour clock have two digits for the hour in every format', () => {
    const formats = formatsOf('en', 'en-GB', 'UTC')
    const at = Date.parse('2026-03-10T00:39:38.000Z')
    assert.equal(formats.clock(at), '00:39')
    assert.equal(formats.clockWithSeconds(at), '00:39:38')
    assert.equal(formats.moment(at, at + 86_400_000), '10 Mar, 00:39')
    assert.equal(formats.momentWithSeconds(at, at + 86_400_000), '10 Mar 2026, 00:39:38')
    assert.equal(formats.utc.dayAndClock(at), '10 Mar, 00:39')
    assert.match(formatsOf('en', 'en-US', 'UTC').clock(at), /^12:39\sAM$/)
    assert.equal(formatsOf('he', 'he-IL', 'UTC').clock(at), '00:39')
  })
})
