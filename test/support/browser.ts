import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import type { TestContext } from 'node:test'
import { type Browser, type BrowserContextOptions, chromium, type Page, type Request } from 'playwright-core'
import { at, requireOrSkip } from './harness.js'

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')

let launched: Promise<Browser> | undefined

/** Debian's Chromium, started once for all tests of a file; undefined if it is missing and the test is skipped. */
export function browserOrSkip(t: TestContext): Promise<Browser | undefined> {
  if (!requireOrSkip(t, 'chromium')) return Promise.resolve(undefined)
  launched ??= chromium.launch({
    executablePath: '/usr/bin/chromium',
    // Chromium's own sandbox does not run as root, as in containers.
    args: ['--disable-dev-shm-usage', ...(process.getuid?.() === 0 ? ['--no-sandbox'] : [])],
  })
  return launched
}

/** Closes the browser of this process, if there is one. */
export async function closeBrowser(): Promise<void> {
  await (await launched)?.close()
}

/** A page in a browser, and everything about it that must not happen. */
export interface Visit {
  readonly page: Page
  /** Console errors and warnings, policy violations, dialogs, and requests to any other origin. */
  readonly faults: readonly string[]
  /** The requested paths. */
  readonly asked: readonly string[]
  /** Whether an event stream is open. */
  listens(): boolean
}

/** Opens the page and waits until it shows the state. */
export async function visit(
  t: TestContext,
  browser: Browser,
  url: string,
  options: BrowserContextOptions & { readonly prepare?: (page: Page) => Promise<unknown> } = {},
): Promise<Visit> {
  const { prepare, ...rest } = options
  const context = await browser.newContext({
    locale: 'en-GB',
    timezoneId: 'Europe/Berlin',
    viewport: { width: 1100, height: 900 },
    ...rest,
  })
  t.after(() => context.close())
  context.setDefaultTimeout(20_000)
  const page = await context.newPage()
  const faults: string[] = []
  const asked: string[] = []
  page.on('console', message => {
    if (['error', 'warning'].includes(message.type())) faults.push(message.text())
  })
  page.on('pageerror', error => faults.push(String(error)))
  page.on('dialog', dialog => {
    faults.push(`a dialog: ${dialog.message()}`)
    void dialog.dismiss()
  })
  page.on('request', request => {
    const { origin, pathname, protocol } = new URL(request.url())
    if (protocol === 'data:') return
    asked.push(pathname)
    if (origin !== new URL(url).origin) faults.push(`a request to ${request.url()}`)
  })
  const streams = new Set<Request>()
  page.on('response', response => {
    const request = response.request()
    if (request.resourceType() === 'eventsource') streams.add(request)
  })
  page.on('requestfailed', request => streams.delete(request))
  page.on('requestfinished', request => streams.delete(request))
  await page.addInitScript(
    'addEventListener("securitypolicyviolation", e => console.error("policy: " + e.violatedDirective + " " + e.blockedURI))',
  )
  await prepare?.(page)
  await page.goto(url)
  await page.locator('#way').waitFor()
  return { page, faults, asked, listens: () => streams.size > 0 }
}

/** Waits until the page shows this state, in its own words. */
export async function headline(page: Page, words: string | RegExp): Promise<void> {
  const name = typeof words === 'string' ? { name: words, exact: true } : { name: words }
  await page.getByRole('heading', { level: 1, ...name }).waitFor()
}

/** Waits until the element shows a text. */
export async function shows(page: Page, selector: string, words: string | RegExp): Promise<void> {
  await page.locator(selector).filter({ hasText: words }).waitFor()
}

/** The violations that axe-core reports, one line per element. */
export async function violations(page: Page): Promise<readonly string[]> {
  await page.evaluate(axe)
  const results: unknown = await page.evaluate('axe.run(document, { resultTypes: ["violations"] })')
  const found = at(results, 'violations')
  if (!Array.isArray(found)) throw new Error('axe-core returned no result')
  const passed = at(results, 'passes')
  if (!Array.isArray(passed) || passed.length < 20) throw new Error('axe-core checked almost nothing')
  return found.flatMap(({ id, nodes }) =>
    nodes.map((node: unknown) => `${id}: ${at(node, 'html')}: ${at(node, 'failureSummary')}`),
  )
}
