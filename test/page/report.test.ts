import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, test } from 'node:test'
import type { BrowserContext, Page } from 'playwright-core'
import { browserOrSkip, closeBrowser, violations } from '../support/browser.js'
import { at, repositoryRoot, startProxy } from '../support/harness.js'
import { ask, FAST } from '../support/http-client.js'
import { historyPath, runProcess } from '../support/kept-buckets.js'
import { simulate } from '../support/simulate.js'

const DAY_MS = 86_400_000

after(closeBrowser)

test('everything that the report page loads exists', () => {
  const html = readFileSync(join(repositoryRoot, 'page/report.html'), 'utf8')
  const parts = [...html.matchAll(/["']page\/([^"']+)["']/g)].map(([, name = '']) => name)
  assert.deepEqual(parts, ['style.css', 'report.css', 'boot.js'])
  for (const name of parts) assert.ok(readFileSync(join(repositoryRoot, 'page', name)).length > 0)
})

test('the report of a month shows what its JSON says, at desk and phone width, and prints', async t => {
  const browser = await browserOrSkip(t)
  if (browser === undefined) return
  const path = historyPath(t)
  playMonth(path)
  const { simulator } = await simulate(t)
  const env = { ...FAST, FOCUS_BREAKER_HISTORY_FILE: path, FOCUS_BREAKER_NOTIFY_NAME: 'lab 3' }
  const proxy = await startProxy(t, { upstream: simulator.url, env })
  const report = (await ask(`${proxy.url}/-/report?days=30`)).json
  assert.equal(at(report, 'name'), 'lab 3')
  assert.equal(at(report, 'kept'), true)
  assert.equal(at(report, 'attempts', 'refused'), 20 * 7)

  for (const [width, colorScheme] of [
    [1100, 'light'],
    [390, 'dark'],
  ] as const) {
    const viewport = { width, height: 900 }
    const context: BrowserContext = await browser.newContext({
      ...{ locale: 'en-GB', timezoneId: 'Asia/Tokyo', viewport, colorScheme },
    })
    t.after(() => context.close())
    const page: Page = await context.newPage()
    const faults: string[] = []
    page.on('console', message => {
      if (['error', 'warning'].includes(message.type())) faults.push(message.text())
    })
    page.on('pageerror', error => faults.push(String(error)))
    await page.goto(`${proxy.url}/-/report?days=30`)
    await page.waitForSelector('#runs-card:not([hidden])')
    const words = (selector: string): Promise<string> => page.locator(selector).innerText()
    assert.equal(await words('#report-title'), 'The last 30 days')
    assert.match(await words('#figures'), /attempts refused\s+140\b/i)
    assert.match(await words('#figures'), new RegExp(`outages\\s+${at(report, 'outages', 'count')}\\b`, 'i'))
    assert.match(await words('#notes'), /140 attempts times|140 refused attempts of 140/)
    assert.equal(await page.locator('#rows tr').count(), 30)
    assert.match(await words('#rows-sum'), /140/)
    assert.match(await words('#clients'), /<b>a bold client<\/b>/)
    assert.match(await words('#runs'), /nightly/)
    assert.equal(await page.title(), 'The last 30 days – lab 3 – focus-breaker')
    const fits = await page.evaluate('document.documentElement.scrollWidth <= innerWidth')
    assert.ok(fits, `it fits into ${width} pixels`)
    assert.deepEqual(await violations(page), [])
    assert.deepEqual(faults, [])
    const pdf = await page.pdf({ preferCSSPageSize: true, printBackground: true })
    const sheets = pdf.toString('latin1').match(/\/Type \/Page\b/g) ?? []
    assert.ok(sheets.length >= 1 && sheets.length <= 4, `${sheets.length} sheets`)
    await page.emulateMedia({ media: 'print' })
    assert.ok(!(await page.locator('#periods').isVisible()))
  }
})

/** Twenty outages in twenty days, each with seven refused attempts. */
function playMonth(path: string): void {
  const process = runProcess(path, Date.now() - 25 * DAY_MS)
  process.see('+')
  for (let day = 0; day < 20; day += 1) {
    process.pass(DAY_MS - 3_600_000)
    process.see(day % 4 === 3 ? '- xxx' : '-')
    if (day % 4 === 3) process.see('- -')
    for (let attempt = 0; attempt < 7; attempt += 1) {
      process.ask({
        address: `192.0.2.${attempt}`,
        userAgent: attempt === 0 ? '<b>a bold client</b>' : 'Focus-Server-Automation/1.0.0',
        run: attempt < 3 ? `nightly-${day}` : undefined,
      })
      process.pass(60_000)
    }
    process.see('++ ++++')
    process.buckets.answered(336)
  }
  process.close()
}
