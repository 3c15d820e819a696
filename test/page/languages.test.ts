import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, describe, type TestContext, test } from 'node:test'
import type { Browser, BrowserContextOptions, Page } from 'playwright-core'
import { browserOrSkip, closeBrowser, headline, shows, violations, visit } from '../support/browser.js'
import { repositoryRoot, startProxy } from '../support/harness.js'
import { ask, FAST } from '../support/http-client.js'
import { eventfulHours, fixPast } from '../support/page-fixtures.js'
import { exchange } from '../support/raw.js'
import { simulate } from '../support/simulate.js'

after(closeBrowser)

const ROOTS: Readonly<Record<string, string>> = {
  en: '<html lang="en" dir="ltr">',
  he: '<html lang="he" dir="rtl">',
}

describe('the language of the page', () => {
  const PREFERENCES: readonly (readonly [acceptLanguage: string | undefined, language: string])[] = [
    [undefined, 'en'],
    ['', 'en'],
    ['he', 'he'],
    ['he-IL', 'he'],
    ['HE-il,he;q=0.9,en-US;q=0.8,en;q=0.7', 'he'],
    ['en-US,en;q=0.9,he;q=0.8', 'en'],
    ['en;q=0.1, he;q=0.2', 'he'],
    ['fr-FR, fr;q=0.9, he;q=0.3', 'he'],
    ['fr', 'en'],
    ['*', 'en'],
    ['he;q=0', 'en'],
    ['he;q=nonsense', 'en'],
    ['hebrew, her, het', 'en'],
    ['iw', 'he'],
    ['iw-IL, en;q=0.5', 'he'],
    ['en;q=0, *', 'he'],
    ['fr, *;q=0.5, en;q=0.1', 'he'],
    ['*, he;q=0.5', 'en'],
    ['he;q=0.5, *', 'en'],
    ['he;q=0, *', 'en'],
    ['he;q=0, en;q=0', 'en'],
    ['en;q=0.5, he;q=0.5', 'en'],
    ['he;q=0.5, en;q=0.5', 'he'],
    ['*', 'en'],
    [';;,,q=,==', 'en'],
    [`${'x'.repeat(8000)}, he`, 'he'],
    [Array.from({ length: 500 }, (_, index) => `he-x${index};q=0.1`).join(), 'he'],
  ]

  test('is what Accept-Language asks for, on the status page and on the report', async t => {
    const { simulator } = await simulate(t)
    const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
    const etags = new Map<string, unknown>()
    for (const path of ['/-/', '/-/report']) {
      for (const [acceptLanguage, language] of PREFERENCES) {
        const asking = acceptLanguage === undefined ? {} : { 'accept-language': acceptLanguage }
        const { statusCode, headers, bytes } = await ask(`${proxy.url}${path}`, {
          headers: { accept: 'text/html', ...asking },
        })
        const what = `${path}, ${acceptLanguage?.slice(0, 60)}`
        assert.equal(statusCode, 200, what)
        assert.ok(bytes.toString().includes(ROOTS[language] ?? ''), what)
        assert.equal(headers['content-language'], language, what)
        assert.match(String(headers.vary), /accept-language/, what)
        etags.set(path + language, headers.etag)
      }
    }
    assert.equal(new Set(etags.values()).size, 4, 'each document has an entity tag of its own')
    // Repeated Accept-Language lines count as one list.
    const lines = [
      'GET /-/ HTTP/1.1',
      'Host: x',
      'Connection: close',
      'Accept-Language: fr',
      'Accept-Language: he',
    ]
    const raw = await exchange(t, Number(new URL(proxy.url).port), `${lines.join('\r\n')}\r\n\r\n`)
    assert.match(raw, /^content-language: he\r$/im)
    // A cached copy in one language does not match a request for another, and the 304 for a match has Vary, too.
    const same = { 'if-none-match': String(etags.get('/-/he')), 'accept-language': 'he' }
    const confirmed = await ask(`${proxy.url}/-/`, { headers: same })
    assert.deepEqual(
      [confirmed.statusCode, confirmed.headers.vary, confirmed.headers['content-language']],
      [304, 'accept-language', 'he'],
    )
    const headers = { 'if-none-match': String(etags.get('/-/en')), 'accept-language': 'he' }
    assert.equal((await ask(`${proxy.url}/-/`, { headers })).statusCode, 200)
  })

  test('is one that both the server and the scripts know', async t => {
    const { simulator } = await simulate(t)
    const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
    const script = readFileSync(join(repositoryRoot, 'page/language.js'), 'utf8')
    const known = [...script.matchAll(/code: '(\w+)', direction: '(\w+)'/g)]
    assert.equal(known.length, Object.keys(ROOTS).length)
    for (const [, code = '', direction = ''] of known) {
      assert.equal(ROOTS[code], `<html lang="${code}" dir="${direction}">`)
      const { headers } = await ask(`${proxy.url}/-/`, { headers: { 'accept-language': code } })
      assert.equal(headers['content-language'], code)
    }
  })
})

/** The language of the page, according to everything that shows it. */
async function languageOf(page: Page): Promise<string> {
  const [lang, dir, title] = (await page.evaluate(
    '[document.documentElement.lang, document.documentElement.dir, document.title]',
  )) as readonly string[]
  assert.equal(dir, lang === 'he' ? 'rtl' : 'ltr')
  assert.equal(/[\u0590-\u05ff]/.test(title ?? ''), lang === 'he', title)
  return lang ?? ''
}

const SWITCH = '#languages a'

/** A proxy during an outage, and a browser that is shown a long history. */
async function eventful(t: TestContext, browser: Browser) {
  const { simulator } = await simulate(t, { fiber: 'missing' })
  const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
  const fixtures = eventfulHours()
  const open = (locale: string, options: BrowserContextOptions = {}, script?: string) =>
    visit(t, browser, `${proxy.url}/-/`, {
      ...{ locale, reducedMotion: 'reduce', timezoneId: 'UTC', ...options },
      prepare: async page => {
        if (script !== undefined) await page.addInitScript(script)
        await fixPast(page, fixtures)
      },
    })
  return { base: `${proxy.url}/-/`, open, outage: String(fixtures.ids[0]) }
}

const IN_HEBREW = 'לא ניתן לקרוא את המטאדאטה של focus-\u2060server'
const IN_ENGLISH = 'focus-server’s metadata cannot be read'

describe('the switch between the languages', { concurrency: 2 }, () => {
  test('is reached by the keyboard, keeps the open outage, and is remembered on both pages', async t => {
    const browser = await browserOrSkip(t)
    if (browser === undefined) return
    const { base, open, outage } = await eventful(t, browser)
    const { page, faults } = await open('he-IL')
    await headline(page, IN_HEBREW)
    assert.equal(await languageOf(page), 'he')
    const link = page.locator(SWITCH)
    assert.equal(await link.textContent(), 'English')
    assert.deepEqual(
      [await link.getAttribute('lang'), await link.getAttribute('hreflang'), await link.getAttribute('dir')],
      ['en', 'en', 'ltr'],
    )
    await page.locator(`[data-outage="${outage}"]`).click()
    await page.locator('#outage-panel').waitFor()
    await link.focus()
    await page.keyboard.press('Enter')
    await headline(page, IN_ENGLISH)
    assert.equal(await languageOf(page), 'en')
    assert.equal(page.url(), `${base}#outage-${outage}`)
    await shows(page, '#outage-panel', /1,034 requests were refused/)

    await page.goto(`${base}report?days=7`)
    await shows(page, '#report-title', 'The last 7 days')
    await page.locator('#rows-card').waitFor()
    assert.equal(await languageOf(page), 'en')
    await page.locator(SWITCH).click()
    await shows(page, '#report-title', '7 הימים האחרונים')
    assert.equal(page.url(), `${base}report?days=7`)
    await page.locator('footer a[data-page]').click()
    await headline(page, IN_HEBREW)
    assert.equal(await languageOf(page), 'he')
    assert.deepEqual(faults, [])
  })

  test('works without storage: the URL carries it from page to page', async t => {
    const browser = await browserOrSkip(t)
    if (browser === undefined) return
    const { base, open } = await eventful(t, browser)
    const forbid =
      "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('', 'SecurityError') } })"
    const { page, faults } = await open('en-GB', {}, forbid)
    await headline(page, IN_ENGLISH)
    await page.locator(SWITCH).click()
    await headline(page, IN_HEBREW)
    assert.equal(page.url(), `${base}?lang=he`)
    await page.locator('.reports a').last().click()
    await shows(page, '#report-title', '30 הימים האחרונים')
    assert.equal(page.url(), `${base}report?days=30&lang=he`)
    await page.locator('#periods a').first().click()
    await shows(page, '#report-title', '24 השעות האחרונות')
    await page.locator('footer a[data-page]').click()
    await headline(page, IN_HEBREW)
    await page.locator(SWITCH).click()
    await headline(page, IN_ENGLISH)
    assert.equal(page.url(), `${base}?lang=en`)
    assert.deepEqual(faults, [])
  })

  test('gives way to a link that names a language, and ignores an unknown one', async t => {
    const browser = await browserOrSkip(t)
    if (browser === undefined) return
    const { base, open } = await eventful(t, browser)
    const { page, faults } = await open('en-GB', {}, "localStorage.setItem('focus-breaker.language', 'xx')")
    await headline(page, IN_ENGLISH)
    await page.goto(`${base}?lang=he`)
    await headline(page, IN_HEBREW)
    await page.goto(`${base}?lang=__proto__`)
    await headline(page, IN_ENGLISH)
    assert.equal(await languageOf(page), 'en')
    assert.deepEqual(faults, [])
  })
})

/** The value of an expression for each element `e`. */
async function ofEach<Value>(page: Page, selector: string, expression: string): Promise<readonly Value[]> {
  return await page.evaluate(`[...document.querySelectorAll('${selector}')].map(e => ${expression})`)
}

/** The horizontal centre of each element, in pixels. */
const centres = (page: Page, selector: string) =>
  ofEach<number>(page, selector, '(box => box.left + box.width / 2)(e.getBoundingClientRect())')

const isRising = (values: readonly number[]) =>
  values.length > 1 && values.every((value, index) => index === 0 || value > Number(values[index - 1]))

describe('the switch between the languages, in more than one tab', { concurrency: 2 }, () => {
  test('opens a new tab if asked to, and leaves this one as it is', async t => {
    const browser = await browserOrSkip(t)
    if (browser === undefined) return
    const { base, open } = await eventful(t, browser)
    const { page, faults } = await open('en-GB')
    await headline(page, IN_ENGLISH)
    const [opened] = await Promise.all([
      page.context().waitForEvent('page'),
      page.locator(SWITCH).click({ modifiers: ['Control'] }),
    ])
    await opened.waitForURL(`${base}?lang=he`)
    await opened.locator('html[lang=he]').waitFor()
    assert.equal(page.url(), base)
    assert.equal(await languageOf(page), 'en')
    assert.deepEqual(faults, [])
  })

  test('reaches a page that comes back from the back/forward cache', async t => {
    const browser = await browserOrSkip(t)
    if (browser === undefined) return
    const { base, open } = await eventful(t, browser)
    const { page, faults } = await open('en-GB')
    await headline(page, IN_ENGLISH)
    const comeBack = "dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))"
    await page.evaluate(`window.isTheSame = true; ${comeBack}`)
    // Another tab, or the report, has changed the language.
    await page.evaluate("localStorage.setItem('focus-breaker.language', 'xx')")
    await page.evaluate(comeBack)
    assert.equal(await page.evaluate('window.isTheSame'), true)
    await page.evaluate("localStorage.setItem('focus-breaker.language', 'he')")
    await page.evaluate(comeBack)
    await headline(page, IN_HEBREW)
    assert.equal(page.url(), base)
    assert.deepEqual(faults, [])
  })
})

describe('every state, in light and dark, on desk and phone', { concurrency: 2 }, () => {
  for (const locale of ['en-GB', 'he-IL']) {
    test(`${locale}: axe-core finds nothing`, async t => {
      const browser = await browserOrSkip(t)
      if (browser === undefined) return
      const { simulator } = await simulate(t)
      const env = { ...FAST, FOCUS_BREAKER_ADMIN_TOKEN: 'correct-horse-battery-staple' }
      const proxy = await startProxy(t, { upstream: simulator.url, env })
      const fixtures = eventfulHours()
      const since = new Date().toISOString()
      const circuit = (state: string, cause: string | null) => ({
        ...{ circuit: { state, cause, since, outageStartedAt: null }, override: null },
        ...{ admits: state !== 'open', refusal: null, forecast: null },
      })
      const override = (state: string, silent: boolean) => ({
        override: {
          ...{ state, silent, since, by: '::1', reason: 'טיפול בלייזר (bay 2)' },
          until: '2999-01-01T00:00:00.000Z',
        },
      })
      const states: Readonly<Record<string, object>> = {
        closed: circuit('closed', null),
        'half-open': circuit('half-open', 'waiting'),
        open: { ...circuit('open', 'waiting'), admits: false, refusal: 'waiting_for_fiber' },
        stopped: override('open', false),
        maintenance: override('open', true),
        'let through': override('closed', false),
      }
      let status: object = {}
      const { page, faults } = await visit(t, browser, `${proxy.url}/-/`, {
        ...{ locale, reducedMotion: 'reduce' },
        prepare: async page => {
          await fixPast(page, fixtures)
          await page.route('**/-/status', async route => {
            const response = await route.fetch().catch(() => undefined)
            if (response === undefined) return await route.abort()
            await route.fulfill({ json: { ...Object(await response.json()), ...fixtures.status, ...status } })
          })
        },
      })
      const check = async (state: string) => {
        for (const width of [1100, 360]) {
          await page.setViewportSize({ width, height: 800 })
          for (const colorScheme of ['light', 'dark'] as const) {
            await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' })
            // A frame later, the regions that scroll now can have the focus.
            await page.evaluate('new Promise(done => requestAnimationFrame(() => setTimeout(done)))')
            assert.deepEqual(await violations(page), [], `${state}, ${width} px, ${colorScheme}`)
          }
        }
      }
      const seen = new Set<string | null>()
      for (const [state, change] of Object.entries(states)) {
        status = change
        await page.reload()
        await page.locator('#clients-card').waitFor()
        await page.locator('#form').waitFor()
        await page.locator('#way').waitFor()
        seen.add(await page.locator('h1').textContent())
        await check(state)
      }
      assert.equal(seen.size, Object.keys(states).length, [...seen].join(' / '))
      assert.deepEqual(faults, [])
      assert.equal(await proxy.stop(), 0)
      await page.locator('#contact[data-contact=lost]').waitFor()
      await check('no connection')
    })
  }
})

test('a browser with a locale that is no language tag gets the page, too', async t => {
  const browser = await browserOrSkip(t)
  if (browser === undefined) return
  const { open } = await eventful(t, browser)
  const tags = "Object.defineProperty(navigator, 'languages', { get: () => ['en-US@posix', 'en_US', ''] })"
  const { page, faults } = await open('en-GB', {}, tags)
  await headline(page, IN_ENGLISH)
  assert.deepEqual(faults, [])
})

describe('the parts of the page in another language', () => {
  test('are marked: what focus-breaker itself writes is English on the Hebrew page', async t => {
    const browser = await browserOrSkip(t)
    if (browser === undefined) return
    const { open, outage } = await eventful(t, browser)
    const { page, faults } = await open('he-IL')
    await headline(page, IN_HEBREW)
    await page.locator(`[data-outage="${outage}"]`).click()
    await page.locator('#outage-panel table').first().waitFor()
    for (const selector of ['#notes', '#reading', '#outage-panel']) {
      const marked = page.locator(`${selector} bdi[lang=en]`, { hasText: 'connection refused' })
      assert.equal(await marked.count(), 1, selector)
    }
    assert.deepEqual(faults, [])
  })
})

describe('the direction of the page', () => {
  for (const [locale, direction] of [
    ['en-GB', 'ltr'],
    ['he-IL', 'rtl'],
  ] as const) {
    test(`${locale}: axe-core finds nothing and all of it runs ${direction}`, async t => {
      const browser = await browserOrSkip(t)
      if (browser === undefined) return
      const { base, open, outage } = await eventful(t, browser)
      const { page, faults } = await open(locale)
      const inEachAppearance = async (what: string) => {
        for (const width of [1100, 360]) {
          await page.setViewportSize({ width, height: 900 })
          for (const colorScheme of ['light', 'dark'] as const) {
            await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' })
            assert.deepEqual(await violations(page), [], `${what}, ${width} px, ${colorScheme}`)
          }
          const excess = await page.evaluate('document.documentElement.scrollWidth - innerWidth')
          assert.equal(excess, 0, `${what}, ${width} px: it scrolls sideways`)
        }
        // At a zoom of 400 %, a desk is as narrow as this.
        await page.setViewportSize({ width: 320, height: 256 })
        const cut = await page.evaluate('document.documentElement.scrollWidth - innerWidth')
        assert.equal(cut, 0, `${what}, 320 px: it scrolls sideways`)
        await page.setViewportSize({ width: 1100, height: 900 })
      }
      await page.locator(`[data-outage="${outage}"]`).click()
      await page.locator('#outage-panel svg').first().waitFor()
      for (const details of await page.locator('main details:visible').all())
        await details.locator('summary').click()
      // Sentences, the line from clients to fiber, columns and time: all in the reading direction.
      const forwards = (values: readonly number[]) =>
        direction === 'ltr' ? isRising(values) : isRising([...values].reverse())
      const inOrder = ['.way .node', '#outages > table > thead th:not(.observed)', '#states-axis span']
      for (const selector of [...inOrder, '#outage-panel > .plot:first-of-type .axis span']) {
        const found = await centres(page, selector)
        assert.ok(forwards(found), `${selector}: ${found}`)
      }
      const isMirrored =
        "getComputedStyle(document.querySelector('#states')).transform.startsWith('matrix(-1,')"
      assert.equal(await page.evaluate(isMirrored), direction === 'rtl')
      // Texts from clients and focus-server, and times, are isolated from the sentence around them.
      const bidiOf = (selector: string) =>
        ofEach<string>(page, selector, 'getComputedStyle(e).unicodeBidi').then(all => [...new Set(all)])
      assert.deepEqual(await bidiOf('main bdi'), ['plaintext'])
      assert.deepEqual(await bidiOf('main time, main [data-from], main code'), ['isolate'])
      const directions = await ofEach<string>(page, 'main code, #token', 'getComputedStyle(e).direction')
      assert.ok(directions.length > 1 && directions.every(each => each === 'ltr'))
      // A reason has the direction of its text; without a text, that of the page.
      const reason = page.locator('#reason')
      for (const [words, expected] of [
        ['', direction],
        ['laser service', 'ltr'],
        ['טיפול בלייזר', 'rtl'],
      ] as const) {
        await reason.fill(words)
        const found = await page.evaluate("getComputedStyle(document.querySelector('#reason')).direction")
        assert.equal(found, expected, `the reason “${words}”`)
      }

      await inEachAppearance('status')
      await page.goto(`${base}report?days=30`)
      await page.locator('#rows-card').waitFor()
      await inEachAppearance('report')
      const labels = await centres(page, '#chart-axis span')
      assert.ok(forwards(labels), `${labels}`)
      for (const days of [1, 30, 90]) {
        await page.goto(`${base}report?days=${days}`)
        await page.locator('#rows-card').waitFor()
        for (const width of [1100, 769, 640, 420, 360, 320]) {
          await page.setViewportSize({ width, height: 900 })
          const boxes = await ofEach<readonly [left: number, right: number]>(
            page,
            '#chart-axis span',
            '(b => [b.left, b.right])(e.getBoundingClientRect())',
          )
          const shown = boxes.filter(([left, right]) => right > left).sort(([a], [b]) => a - b)
          const what = `${days} days, ${width} px: ${JSON.stringify(shown)}`
          assert.ok(shown.length > 1, what)
          for (const [index, [left, right]] of shown.entries()) {
            assert.ok(left >= 0 && right <= width, what)
            assert.ok(right < (shown[index + 1]?.[0] ?? width), what)
          }
        }
      }
      await page.setViewportSize({ width: 1100, height: 900 })
      const pdf = await page.pdf({ preferCSSPageSize: true, printBackground: true })
      assert.ok(pdf.length > 10_000)
      await page.emulateMedia({ media: 'print' })
      assert.equal(await page.locator(SWITCH).isVisible(), false)
      assert.deepEqual(faults, [])
    })
  }
})
