import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, type TestContext, test } from 'node:test'
import type { Browser, Page } from 'playwright-core'
import { HEADER, historyLine } from '../../src/outages/history-text.js'
import { browserOrSkip, closeBrowser, headline, shows, violations, visit } from '../support/browser.js'
import { startProxy, until } from '../support/harness.js'
import { ask, FAST } from '../support/http-client.js'
import { eventfulHours, type Fixtures, fixPast, minutesAgo } from '../support/page-fixtures.js'
import { simulate } from '../support/simulate.js'

after(closeBrowser)

/** A time zone in which it is two o'clock in the afternoon, so the two hours before are on the same day. */
function zoneOfAfternoon(): string {
  const ahead = 14 - new Date().getUTCHours()
  return ahead === 0 ? 'Etc/GMT' : `Etc/GMT${ahead > 0 ? '-' : '+'}${Math.abs(ahead)}`
}

/** The page of a running proxy, with a history from the fixtures; `change` replaces them. */
async function pageWith(t: TestContext, browser: Browser, fixtures: Fixtures, hash = '') {
  const { simulator } = await simulate(t, { fiber: 'missing' })
  const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
  const prepare = (page: Page) => fixPast(page, fixtures)
  const options = { prepare, reducedMotion: 'reduce', timezoneId: zoneOfAfternoon() } as const
  const visited = await visit(t, browser, `${proxy.url}/-/${hash}`, options)
  /** Replaces the fixtures, and makes the page request them now. */
  const change = async (next: Fixtures) => {
    await visited.page.unrouteAll({ behavior: 'ignoreErrors' })
    await fixPast(visited.page, next)
    await visited.page.evaluate('dispatchEvent(new Event("online"))')
  }
  return { ...visited, change }
}

/** The text of each element, with single spaces. */
const textsOf = async (page: Page, selector: string) =>
  (await page.locator(selector).allTextContents()).map(text => text.replace(/\s+/g, ' ').trim())

describe('the past on the page', { concurrency: 2 }, () => {
  test('the state shows since when its cause and the outage have lasted, what decided, and what to do', async t => {
    const browser = await browserOrSkip(t)
    if (browser === undefined) return
    const { page, faults } = await pageWith(t, browser, eventfulHours())
    await headline(page, 'focus-server’s metadata cannot be read')
    await shows(
      page,
      '#since',
      /^since \d+:\d\d \(8 min( \d sec)?\), within an outage since \d+:\d\d \(53 min\)$/,
    )
    assert.equal(await page.title(), 'focus-server’s metadata cannot be read – fiber lab 2 – focus-breaker')
    await shows(page, '.brand', /fiber lab 2/)
    await shows(page, '#notes', /The state of the fiber is unknown: connection refused\./)
    await shows(page, '#notes', /What to do: check that focus-server is running/)
    // The server was up for only a part of the outage.
    await shows(page, '#notes', /1,034 requests refused, 823 of them while focus-server was up\./)
    await shows(page, '#notes', /A rough estimate from only 6 earlier outages with unreadable metadata\./)

    // The timeline has a colour and a pattern for each phase, and the legend shows only those that occur.
    const classes = new Set(
      await page.locator('#states rect').evaluateAll(all => all.map(each => each.getAttribute('class'))),
    )
    const phases = ['ready', 'waiting', 'unreachable', 'recovering', 'stopped', 'maintenance', 'let-through']
    for (const phase of [...phases, 'not-running']) assert.ok(classes.has(`is-${phase}`), phase)
    const fills = await page.evaluate(
      '[...document.querySelectorAll("#legend rect")].map(each => getComputedStyle(each).fill)',
    )
    assert.ok(Array.isArray(fills))
    assert.equal(new Set(fills).size, fills.length, 'each phase has its own fill')
    assert.deepEqual(await textsOf(page, '#legend li'), [
      ...['ready', 'waiting for fiber', 'metadata unreadable', 'recovering', 'stopped by an operator'],
      ...['planned maintenance', 'let through by an operator', 'focus-breaker not running', 'not known'],
    ])
    await page
      .getByRole('img', { name: /^States from .*let through by an operator for 12 min.*, 2 outages\.$/ })
      .waitFor()
    const states = await textsOf(page, '#states-rows tr')
    assert.match(String(states[2]), /Let through by an operator \(readings: Waiting for fiber\)12 min$/)

    // The tile, the chart and the table show the same counts, since the same time.
    const [tile] = await textsOf(page, '#counts dd')
    assert.equal(tile, '1,385')
    await shows(page, '#counts-since', /^Since \d+:\d\d, across restarts\.$/)
    await shows(page, '#refused-sum', /^1,385 since \d+:\d\d, at most 160 in a minute/)
    await shows(page, '#outages-sum', /^2 outages since .*During outages, 1,344 requests were refused\./)
    assert.equal(await page.locator('#counts div').count(), 6)

    // The clients that keep retrying come first.
    const asking = await textsOf(page, '#clients-rows tr th')
    assert.deepEqual(
      asking.map(words => words.split('192')[0]),
      ['Focus-Server-Automation/1.0.0', 'focus-desktop/4.2 (Windows NT 10.0; Win64; x64)'],
    )
    await shows(page, '#others-title', 'Other refused clients (1)')
    const lines = await page.evaluate(
      "[...document.querySelectorAll('#clients-rows td.one-line')].map(e => " +
        '(range => (range.selectNodeContents(e), range.getClientRects().length))(document.createRange()))',
    )
    assert.deepEqual(lines, [1, 1])

    // Who ended an override, how, and when.
    const ends = (await textsOf(page, '#words-rows tr td:first-of-type')).map(words =>
      words.replace(/^[\d:]+/, ''),
    )
    assert.deepEqual(ends, [', removed by 192.0.2.9', ', expired', ', replaced by 192.0.2.10'])
    assert.deepEqual(faults, [])
  })

  test('an outage opens in place by the keyboard, at its own URL, and a redraw keeps the focus', async t => {
    const browser = await browserOrSkip(t)
    if (browser === undefined) return
    const hours = eventfulHours()
    const [ongoing = '', over = ''] = hours.ids
    const { page, faults, change } = await pageWith(t, browser, hours)
    const link = page.locator(`[data-outage="${ongoing}"]`)
    await link.focus()
    assert.equal(await link.getAttribute('aria-expanded'), 'false')
    await page.keyboard.press('Enter')
    const panel = page.locator('#outage-panel')
    await panel.waitFor()
    assert.equal(new URL(page.url()).hash, `#outage-${ongoing}`)
    await shows(
      page,
      '#outage-panel',
      /1,034 requests were refused\. They came from 212 distinct operations\./,
    )
    await shows(
      page,
      '#outage-panel',
      /focus-server was up during 823 of them, and none of these reached it; the others came while its metadata could not be read/,
    )
    assert.equal(await link.getAttribute('aria-expanded'), 'true')
    assert.equal(await page.evaluate('document.activeElement.dataset.outage'), ongoing)
    const rows = await textsOf(page, '#outage-panel tr')
    const findRow = (pattern: RegExp) =>
      assert.ok(
        rows.some(each => pattern.test(each)),
        `${pattern} in ${rows.join('\n')}`,
      )
    findRow(/Waiting for fiberThe fiber is missing \(prr\); a probe$/)
    findRow(
      /Let through by an operatorthe sensor lies; set by 192\.0\.2\.9, until .*, removed by 192\.0\.2\.9$/,
    )
    findRow(/Metadata cannot be readThe metadata could not be read: connection refused; a probe$/)
    findRow(/^other clients30/)
    findRow(/^nightly-118200/)
    findRow(/^requests without a test run834/)
    await page.getByRole('img', { name: 'Refused requests per minute: 1,034 in total.' }).waitFor()

    // There is another refusal, and an earlier outage: the focus stays on the same link.
    const [first, second] = 'outages' in hours ? Object(hours.outages).outages : []
    const startedAt = new Date().toISOString()
    const newest = { ...second, id: 'newest', startedAt, endedAt: startedAt, seconds: 0, refused: 0 }
    await page.evaluate(`document.querySelector('[data-outage="${ongoing}"]').isTheSame = true`)
    const status = { ...hours.status, outage: { ...Object(hours.status).outage, refused: 1035 } }
    await change({ ...hours, status, outages: { outages: [newest, { ...first, refused: 1035 }, second] } })
    await shows(page, '#outages-rows tr', /1,0350212/)
    await page.locator('[data-outage="newest"]').waitFor()
    assert.equal(await page.evaluate('document.activeElement.dataset.outage'), ongoing)
    assert.equal(await page.evaluate('document.activeElement.isTheSame'), true)

    await page.keyboard.press('Escape')
    await panel.waitFor({ state: 'detached' })
    assert.equal(new URL(page.url()).hash, '')
    assert.equal(await page.evaluate('document.activeElement.dataset.outage'), ongoing)
    await page.goBack()
    await panel.waitFor()
    await page.locator(`[data-outage="${over}"]`).click()
    await shows(page, '#outage-panel', /Admitted during the recovery.*70 more are not shown\./)
    await shows(page, '#outage-panel', /10 more requests at unknown times\./)
    assert.equal(await panel.count(), 1)
    // It closes by its own link, too.
    await page.locator(`[data-outage="${over}"]`).click()
    await panel.waitFor({ state: 'detached' })
    assert.deepEqual(faults, [])
  })

  test('a link shows an outage that is not in the list, or says that it is no longer stored', async t => {
    const browser = await browserOrSkip(t)
    if (browser === undefined) return
    const hours = eventfulHours()
    const [, over = ''] = hours.ids
    const [ongoing] = Object(hours.outages).outages
    const { page } = await pageWith(
      t,
      browser,
      { ...hours, outages: { outages: [ongoing] }, details: { ...hours.details, ...lastYear(hours) } },
      `#outage-${over}`,
    )
    await shows(page, '#outage-panel', /310 requests were refused\./)
    // A shared link scrolls to it.
    await until(async () => Number(await page.evaluate('scrollY')) > 100)
    // It is shown, but not counted with the others.
    await shows(page, '#outages-sum', /^1 outage since/)
    await page.evaluate('location.hash = "#outage-20200101T000000000Z"')
    await shows(page, '#outage-unknown', 'The outage in the URL is no longer stored.')
    assert.equal(await page.locator('#outage-panel').count(), 0)
    await page.evaluate(`location.hash = "#outage-${ongoing.id}"`)
    await shows(page, '#outage-panel', /1,034 requests were refused/)
    assert.equal(await page.locator('#outage-unknown').isVisible(), false)
    // An outage of another day is shown with its date, also below its chart.
    await page.evaluate('location.hash = "#outage-last-year"')
    await shows(page, '#outage-panel', /^From \d+ \w+ \d{4}, \d?\d:\d\d:\d\d to /)
    const labels = await textsOf(page, '#outage-panel .axis span')
    assert.ok(labels.length > 0 && labels.every(label => /\d+ \w+/.test(label)), labels.join())
    // Text from the URL is never treated as markup.
    await page.evaluate('location.hash = "#outage-<img src=x>"')
    await until(async () => (await page.locator('#outage-panel').count()) === 0)
    assert.equal(await page.locator('img').count(), 0)
  })

  test('in mode observe the page shows what enforcing would have refused', async t => {
    const browser = await browserOrSkip(t)
    if (browser === undefined) return
    const hours = eventfulHours()
    const would = (each: {
      readonly refused?: number
      readonly count?: number
      readonly attempts?: number
    }) => ({
      ...each,
      ...(each.count === undefined ? { refused: 0 } : { count: 0 }),
      wouldRefuse: each.refused ?? each.count ?? each.attempts,
    })
    const observed = {
      ...hours,
      status: {
        ...hours.status,
        mode: 'observe',
        outage: would(Object(hours.status).outage),
        totals: { ...Object(hours.status).totals, refused: 0, wouldRefuse: 5000, since: minutesAgo(2000) },
      },
      history: { ...hours.history, refused: Object(hours.history).refused.map(would) },
      outages: { outages: Object(hours.outages).outages.map(would) },
      clients: { ...hours.clients, clients: Object(hours.clients).clients.map(would) },
    }
    const { page, faults } = await pageWith(t, browser, observed)
    await shows(page, '#tags', 'Observe mode: no request is refused')
    await shows(
      page,
      '#notes',
      /5,000 requests would have been refused since .*, from 3 clients; all of them were forwarded.*set guard\.mode to enforce/,
    )
    await shows(page, '#refused-title', 'Requests that would have been refused, per minute')
    await shows(page, '#refused-sum', /^1,385 since/)
    // The tile covers a longer time than the chart, and also shows the count for the time of the chart.
    await shows(page, '#counts div', /^would have been refused1,385 in the last 3 hours5,000$/)
    assert.equal(await page.locator('#refused .bar').count(), 0)
    assert.ok((await page.locator('#refused .would-bar').count()) > 20)
    for (const table of ['#clients', '#outages']) {
      await page.locator(`${table} th.observed`, { hasText: 'Would have been refused' }).waitFor()
    }
    assert.match(String((await textsOf(page, '#outages-rows tr'))[0]), /01,034212/)
    await shows(page, '#outages-sum', /1,344 requests would have been refused\./)
    assert.deepEqual(faults, [])
  })

  test('a year of history makes a page of bounded size, and the time to show it is reported', async t => {
    const browser = await browserOrSkip(t)
    if (browser === undefined) return
    const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-year-'))
    t.after(() => rmSync(directory, { recursive: true, force: true }))
    const file = join(directory, 'history.jsonl')
    writeFileSync(file, [HEADER, ...aYear()].join(''))
    const { simulator } = await simulate(t)
    const env = { ...FAST, FOCUS_BREAKER_HISTORY_FILE: file }
    const proxy = await startProxy(t, { upstream: simulator.url, env })
    const beganAt = performance.now()
    const { page, faults } = await visit(t, browser, `${proxy.url}/-/`, { reducedMotion: 'reduce' })
    await page.locator('#outages-rows a').first().waitFor()
    await page.locator('#states rect').first().waitFor()
    const shownMs = performance.now() - beganAt
    // The page's own modules, which redraw this at each change.
    const drawMs = await page.evaluate(`(async () => {
      const { drawOutages, drawPast } = await import('./page/cards.js')
      const beganAt = performance.now()
      drawPast()
      drawOutages()
      return performance.now() - beganAt
    })()`)
    assert.equal(await page.locator('#outages-rows tr').count(), 20)
    const elements = Number(await page.evaluate('document.querySelectorAll("*").length'))
    assert.ok(elements > 4000 && elements < 6000, `${elements} elements`)
    const { bytes } = await ask(`${proxy.url}/-/outages?limit=20`)
    assert.ok(bytes.length < 50_000, `${bytes.length} bytes`)
    t.diagnostic(
      `shown after ${Math.round(shownMs)} ms, drawn again in ${Math.round(Number(drawMs))} ms, ${elements} elements`,
    )
    assert.deepEqual(faults, [])
  })

  test('axe-core finds nothing with an outage open, and the phone shows attempts without scrolling', async t => {
    const browser = await browserOrSkip(t)
    if (browser === undefined) return
    const hours = eventfulHours()
    const { page, faults } = await pageWith(t, browser, hours, `#outage-${hours.ids[1]}`)
    await page.locator('#outage-panel .scroll').first().waitFor()
    for (const details of await page.locator('details:visible').all())
      await details.locator('summary').click()
    for (const [width, colorScheme, dir] of [
      [1100, 'light', 'ltr'],
      [1100, 'dark', 'rtl'],
      [360, 'dark', 'ltr'],
      [360, 'light', 'rtl'],
    ] as const) {
      await page.setViewportSize({ width, height: 800 })
      await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' })
      await page.evaluate(`document.documentElement.dir = '${dir}'`)
      const where = `${colorScheme}, ${width} px, ${dir}`
      assert.deepEqual(await violations(page), [], where)
      assert.equal(await page.evaluate('document.documentElement.scrollWidth - innerWidth'), 0, where)
    }
    await page.evaluate("document.documentElement.dir = 'ltr'")
    const hidden = await page.evaluate(
      'document.querySelector("#clients-rows .number").getBoundingClientRect().right - document.querySelector("#clients").getBoundingClientRect().right',
    )
    assert.ok(Number(hidden) <= 0, `the number of attempts is ${hidden} px outside`)
    assert.deepEqual(faults, [])
  })
})

/** Details of an outage of a year ago that lasted for three days. */
function lastYear({ details }: Fixtures): Readonly<Record<string, object>> {
  const [startedAt, endedAt] = [minutesAgo(525_600), minutesAgo(525_600 - 4320)]
  const any = Object.values(details ?? {})[0]
  const change = { at: startedAt, state: 'open', cause: 'waiting', reading: null }
  const span = { id: 'last-year', startedAt, endedAt, seconds: 259_200, cause: 'waiting', causes: [] }
  return { 'last-year': { ...any, ...span, changes: [change], minutes: { spanMinutes: 16, counts: [] } } }
}

/** 10,000 outages in a year, the most states that are kept, and every minute of six hours. */
function* aYear(): Iterable<string> {
  const now = Date.now()
  const line = (kind: string, key: string, record: object) => historyLine(new Map([[kind, [[key, record]]]]))
  yield line('alive', 'alive', { since: minutesAgo(525_600), at: minutesAgo(0.1) })
  for (let index = 0; index < 10_000; index += 1) {
    const at = new Date(now - (10_000 - index) * 3_150_000).toISOString()
    const to = new Date(Date.parse(at) + 300_000).toISOString()
    yield line('outage', at, {
      ...{ startedAt: at, endedAt: to, cause: 'waiting', causeSince: at },
      openedBy: { kind: 'waiting', at, source: 'probe', missing: ['prr'] },
      closedBy: { kind: 'ready', at: to, source: 'probe' },
      ...{ refused: 480, wouldRefuse: 0, operations: 12, spared: 480, restarts: 0 },
    })
  }
  for (let index = 0; index < 1000; index += 1) {
    const from = minutesAgo(350 - index * 0.35)
    const isOpen = index % 2 === 0
    const state = { state: isOpen ? 'open' : 'closed', cause: isOpen ? 'waiting' : null }
    yield line('state', from, { from, ...state, override: null })
  }
  for (let index = 0; index < 360; index += 1) {
    const minute = new Date(Math.floor(now / 60_000 - index) * 60_000).toISOString()
    yield line('minute', minute, { minute, refused: 100, wouldRefuse: 0 })
  }
}
