import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
} from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, type TestContext, test } from 'node:test'
import { fastify } from 'fastify'
import type { Browser, Page } from 'playwright-core'
import { dashboard } from '../../src/routes/page-route.js'
import { browserOrSkip, closeBrowser, headline, shows, violations, visit } from '../support/browser.js'
import {
  at,
  circuitIs,
  repositoryRoot,
  requireOrSkip,
  startProgram,
  startProxy,
  statusOf,
  until,
} from '../support/harness.js'
import { ask, configure, FAST, runClients } from '../support/http-client.js'
import { startIngress } from '../support/ingress.js'
import { type Fixtures, fixPast } from '../support/page-fixtures.js'
import { simulate } from '../support/simulate.js'

const TOKEN = 'correct-horse-battery-staple'
const WITH_TOKEN = { ...FAST, FOCUS_BREAKER_ADMIN_TOKEN: TOKEN }

after(closeBrowser)

function put(proxy: { readonly url: string }, override: object) {
  const headers = { authorization: `Bearer ${TOKEN}` }
  return ask(`${proxy.url}/-/override`, { method: 'PUT', headers, body: JSON.stringify(override) })
}

function refusals(proxy: { readonly url: string }, number: number, userAgent: string): Promise<void> {
  return runClients(number, async () => {
    const { statusCode } = await configure(proxy, { headers: { 'user-agent': userAgent } })
    assert.equal(statusCode, 503)
  })
}

describe('the route of the page', () => {
  test('the page loads its own style and scripts, and nothing else', async t => {
    const { simulator } = await simulate(t)
    const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
    const parts = readdirSync(join(repositoryRoot, 'page')).filter(name => /\.(css|js)$/.test(name))
    assert.ok(parts.length > 2)
    const types: Readonly<Record<string, string>> = { css: 'text/css', js: 'text/javascript' }
    for (const path of ['', ...parts.map(name => `page/${name}`)]) {
      const { statusCode, headers, bytes } = await ask(`${proxy.url}/-/${path}`)
      assert.equal(statusCode, 200, path)
      const type = types[path.split('.')[1] ?? ''] ?? 'text/html'
      assert.equal(headers['content-type'], `${type}; charset=utf-8`)
      assert.equal(headers['x-content-type-options'], 'nosniff')
      assert.equal(headers['referrer-policy'], 'no-referrer')
      assert.equal(headers['cache-control'], 'no-cache')
      const text = bytes.toString()
      const inline = [...text.matchAll(/<script.*?>(.*?)<\/script>/gs)].map(([, script = '']) => script)
      assert.equal(inline.length, type === 'text/html' ? 1 : 0)
      const hash = createHash('sha256').update(inline.join('')).digest('base64')
      assert.equal(
        headers['content-security-policy'],
        type !== 'text/html'
          ? "default-src 'none'; frame-ancestors 'none'"
          : `default-src 'none'; style-src 'self'; script-src 'sha256-${hash}' 'strict-dynamic'; ` +
              "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; " +
              "require-trusted-types-for 'script'; trusted-types boot",
      )
      const addresses = [...text.matchAll(/(?:https?:)?\/\/[a-z][^\s"'`<]*/gi)].map(([address]) => address)
      assert.deepEqual(
        addresses.filter(address => address !== 'http://www.w3.org/2000/svg'),
        [],
        path,
      )
      assert.doesNotMatch(
        text,
        /innerHTML\s*=[^=]|insertAdjacentHTML|document\.write|\beval\b|sessionStorage\b/,
      )
      // Only the language is remembered.
      if (path !== 'page/language.js') assert.doesNotMatch(text, /Storage\b/, path)
      assert.doesNotMatch(text, /<style|\s(?:style|on[a-z]+)\s*=\s*"/, path)
    }
    for (const path of [
      'page/',
      'page/index.html',
      'page/shapes.d.ts',
      'page/..%2fpackage.json',
      'page/x.js',
    ]) {
      assert.equal((await ask(`${proxy.url}/-/${path}`)).statusCode, 404, path)
    }
  })

  test('a client that has the page is not sent it again, and HEAD and other methods follow HTTP', async t => {
    const { simulator } = await simulate(t)
    const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
    const page = `${proxy.url}/-/`
    const { headers, bytes } = await ask(page)
    const etag = String(headers.etag)
    assert.match(etag, /^"[\w-]{20,}"$/)
    for (const given of [etag, `W/${etag}`, `"other", ${etag}`, '*']) {
      const answer = await ask(page, { headers: { 'if-none-match': given } })
      assert.equal(answer.statusCode, 304, given)
      assert.equal(answer.bytes.length, 0)
      assert.equal(answer.headers.etag, etag)
      // A browser replaces the headers of its cached copy with these.
      assert.equal(answer.headers['content-security-policy'], headers['content-security-policy'])
    }
    assert.equal((await ask(page, { headers: { 'if-none-match': '"other"' } })).statusCode, 200)
    const head = await ask(page, { method: 'HEAD' })
    assert.equal(head.statusCode, 200)
    assert.equal(head.headers['content-length'], String(bytes.length))
    assert.equal(head.bytes.length, 0)
    const post = await ask(page, { method: 'POST' })
    assert.equal(post.statusCode, 405)
    assert.equal(post.headers.allow, 'GET, HEAD')
    const bare = await ask(`${proxy.url}/-`)
    assert.equal(bare.statusCode, 308)
    assert.equal(bare.headers.location, '-/')
    assert.equal(simulator.counters.byRoute['GET /-/'], undefined)
  })

  test('is found from wherever the code was compiled to, and a package without it does not start', async t => {
    const app = fastify()
    t.after(() => app.close())
    dashboard(app)
    assert.equal((await app.inject('/-/')).statusCode, 200)
    assert.equal((await app.inject('/-/page/boot.js')).statusCode, 200)

    const root = mkdtempSync(join(tmpdir(), 'focus-breaker-page-'))
    t.after(() => rmSync(root, { recursive: true, force: true }))
    cpSync(join(repositoryRoot, 'dist'), join(root, 'dist'), { recursive: true })
    cpSync(join(repositoryRoot, 'package.json'), join(root, 'package.json'))
    symlinkSync(join(repositoryRoot, 'node_modules'), join(root, 'node_modules'))
    const start = () =>
      startProgram(t, {
        command: process.execPath,
        args: [join(root, 'dist/cli/main.js'), 'serve', '--upstream', 'http://127.0.0.1:1', '--port', '0'],
        readyWhen: line => (line.includes('"listening"') ? true : undefined),
      })
    await assert.rejects(start(), /ended with 1.*status page is missing: .*page\/index\.html/s)
    cpSync(join(repositoryRoot, 'page'), join(root, 'page'), { recursive: true })
    rmSync(join(root, 'page/style.css'))
    await assert.rejects(start(), /ended with 1.*status page is incomplete: page\/style\.css is missing/s)
  })

  test('belongs to the package', () => {
    const manifest: unknown = JSON.parse(readFileSync(join(repositoryRoot, 'package.json'), 'utf8'))
    const files = at(manifest, 'files')
    assert.ok(Array.isArray(files) && files.some(pattern => String(pattern).startsWith('page/')))
  })
})

describe('the page in a browser', { concurrency: 3 }, () => {
  test('an outage opens and closes without a reload', async t => {
    const browser = await browserOrSkip(t)
    if (browser === undefined) return
    const { simulator } = await simulate(t)
    const env = { ...FAST, FOCUS_BREAKER_RECOVERY_RAMP_MS: '4000', FOCUS_BREAKER_NOTIFY_NAME: 'fiber lab 2' }
    const proxy = await startProxy(t, { upstream: simulator.url, env })
    const { page, faults } = await visit(t, browser, `${proxy.url}/-/`)
    await headline(page, 'Ready')
    assert.equal(await page.title(), 'Ready – fiber lab 2 – focus-breaker')
    const icon = () => page.locator('#icon').getAttribute('href')
    const readyIcon = await icon()
    await shows(page, '#contact', /^Live$/)
    await shows(page, '.brand', /^\s*focus-breaker fiber lab 2\s*$/)
    await shows(page, '#outages-none', 'No outages recorded.')
    await shows(page, '#clients-none', 'No client has been refused')
    // No token is configured.
    assert.equal(await page.locator('#operator').isVisible(), false)
    await page.evaluate('window.isTheSame = true')

    await simulator.setFiber('missing')
    await headline(page, 'Waiting for fiber')
    await refusals(proxy, 25, 'test suite 1.0')
    await shows(page, '#notes', '25 requests refused. focus-server received none of them.')
    await shows(page, '#since', /^since .*\d?\d:\d\d \(\d+ sec\)$/)
    assert.equal(await page.title(), 'Waiting for fiber – fiber lab 2 – focus-breaker')
    assert.notEqual(await icon(), readyIcon)
    const circuitSince = String(at(await statusOf(proxy), 'circuit', 'since'))
    const title = String(await page.locator('#since time').getAttribute('title'))
    assert.match(title, /^\d+ \w+ \d{4},? (?:at )?\d?\d:\d\d:\d\d (?:CES?T|GMT\+[12]) = /)
    assert.ok(title.endsWith(` = ${circuitSince}`))
    assert.equal(await page.locator('#since time').getAttribute('datetime'), circuitSince)
    await shows(page, '#reading', /Decided byprr, which is 0/)
    await shows(page, '#metadata-rows tr', /^prr0decided$/)
    await page
      .getByRole('img', { name: /^States from .*: .*waiting for fiber for .*, 1 outage\.$/ })
      .waitFor()
    await page.getByRole('img', { name: /^Refused requests per minute .*: 25 since/ }).waitFor()
    await shows(page, '#clients-rows tr', /^test suite 1\.0127\.0\.0\.12501/)
    await shows(page, '#outages-rows tr', /ongoing.*Waiting for fiber \(prr\)2501–$/)
    await shows(page, '#announced', 'Waiting for fiber')

    await simulator.setFiber('present')
    await headline(page, 'Recovering')
    await headline(page, 'Ready')
    await shows(
      page,
      '#notes',
      /The last outage ended at .*\d?\d:\d\d after \d+ sec\. 25 requests were refused\./,
    )
    await page.locator('#outages-rows tr', { hasNotText: 'ongoing' }).waitFor()
    assert.equal(await page.locator('#outages-rows tr').count(), 1)
    // It opens in place, with its details.
    await page.locator('#outages-rows a').click()
    await shows(page, '#outage-panel', /25 requests were refused\. They came from 1 distinct operation\./)
    await shows(page, '#outage-panel', /focus-server was up, and none of them reached it\./)
    await shows(page, '#outage-panel tr', /Waiting for fiberThe fiber is missing \(prr\); a probe$/)
    await shows(page, '#outage-panel tr', /^test suite 1\.0127\.0\.0\.1250/)
    await page.getByRole('img', { name: 'Refused requests per minute: 25 in total.' }).waitFor()
    assert.deepEqual(await violations(page), [])
    assert.equal(await page.evaluate('window.isTheSame'), true)
    assert.deepEqual(faults, [])

    // The policy also works with the browser's cached copy, which a 304 confirms.
    await page.reload()
    await headline(page, 'Ready')
    assert.deepEqual(faults, [])
  })

  test('axe-core finds nothing, in light and dark, on desk and phone', async t => {
    const browser = await browserOrSkip(t)
    if (browser === undefined) return
    const { simulator } = await simulate(t)
    const proxy = await startProxy(t, { upstream: simulator.url, env: WITH_TOKEN })
    const { page, faults } = await visit(t, browser, `${proxy.url}/-/`, { reducedMotion: 'reduce' })
    const checkAll = async (state: string) => {
      for (const width of [1100, 360]) {
        await page.setViewportSize({ width, height: 800 })
        for (const colorScheme of ['light', 'dark'] as const) {
          await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' })
          assert.deepEqual(await violations(page), [], `${state}, ${colorScheme}, ${width} px`)
        }
        const excess = await page.evaluate('document.documentElement.scrollWidth - innerWidth')
        assert.equal(excess, 0, `${state}, ${width} px: it scrolls sideways`)
      }
    }
    await headline(page, 'Ready')
    await checkAll('ready')
    await page.setViewportSize({ width: 320, height: 600 })
    const apart = await page.evaluate(
      "[...document.querySelectorAll('.way .node span')].map(e => e.getBoundingClientRect())" +
        '.flatMap((e, i, all) => i === 0 ? [] : [e.left - all[i - 1].right])',
    )
    assert.ok(Array.isArray(apart) && apart.length === 3 && apart.every(px => px > 0), `labels: ${apart} px`)
    await simulator.setFiber('missing')
    await headline(page, 'Waiting for fiber')
    await refusals(proxy, 5, `${'a-very-long-name-without-any-space/'.repeat(5)} 1.0`)
    await page.locator('#clients-rows tr').waitFor()
    for (const details of await page.locator('details:visible').all())
      await details.locator('summary').click()
    await checkAll('waiting')
    assert.equal(
      (await put(proxy, { state: 'open', reason: 'x'.repeat(300), forSeconds: 600 })).statusCode,
      200,
    )
    await headline(page, 'Stopped by an operator')
    await checkAll('operator')
    // Wide tables scroll in a region of their own that the keyboard reaches.
    assert.equal(await page.locator('#clients').getAttribute('tabindex'), '0')
    assert.equal(await proxy.stop(), 0)
    await shows(page, '#contact', 'No contact with focus-breaker')
    assert.deepEqual(await violations(page), [], 'without contact')
    assert.deepEqual(withoutLostConnections(faults), [])
  })

  test('an operator sets and removes an override with the keyboard only, and errors are explained', async t => {
    const browser = await browserOrSkip(t)
    if (browser === undefined) return
    const { simulator } = await simulate(t)
    const proxy = await startProxy(t, { upstream: simulator.url, env: WITH_TOKEN })
    const { page, faults } = await visit(t, browser, `${proxy.url}/-/`)
    await headline(page, 'Ready')
    await page.locator('#form').waitFor()
    const { keyboard } = page
    const tabTo = async (id: string) => {
      for (let stops = 0; stops < 40; stops += 1) {
        await keyboard.press('Tab')
        const [focused, outline] = String(
          await page.evaluate(
            'const e = document.activeElement; [e.id, getComputedStyle(e).outlineStyle].join()',
          ),
        ).split(',')
        assert.notEqual(outline, 'none', `the focus on ${focused} cannot be seen`)
        if (focused === id) return
      }
      assert.fail(`the keyboard does not reach ${id}`)
    }
    const result = page.locator('#result')
    await tabTo('reason')
    await keyboard.type('   ')
    await tabTo('minutes')
    await keyboard.type('45')
    await tabTo('token')
    await keyboard.type(TOKEN)
    await keyboard.press('Enter')
    await result.filter({ hasText: /Nothing was changed.*reason: expected text/ }).waitFor()
    await page.locator('#reason').fill('fiber work')
    await page.locator('#token').fill('wrong')
    await keyboard.press('Enter')
    await result.filter({ hasText: 'The token is wrong. Nothing was changed.' }).waitFor()
    assert.equal(at(await statusOf(proxy), 'override'), null)

    // The wrong token is selected, so that typing replaces it.
    await keyboard.type(TOKEN)
    await keyboard.press('Enter')
    await headline(page, 'Stopped by an operator')
    await shows(page, '#notes .reason', 'fiber work')
    await shows(page, '#since', /^until .*\d:\d\d.* \((45 min|44 min( \d+ sec)?) left\)$/)
    const { since, until: ends } = {
      since: at(await statusOf(proxy), 'override', 'since'),
      until: at(await statusOf(proxy), 'override', 'until'),
    }
    assert.equal(Math.round((Date.parse(String(ends)) - Date.parse(String(since))) / 60_000), 45)
    await tabTo('remove')
    await keyboard.press('Enter')
    await headline(page, 'Ready')
    await page.locator('#remove').waitFor({ state: 'hidden' })
    assert.notEqual(await page.evaluate('document.activeElement.tagName'), 'BODY')
    await shows(page, '#words', 'Earlier overrides')

    await page.locator('input[value="planned"]').check()
    await page.locator('#reason').fill('laser service')
    await keyboard.press('Enter')
    await headline(page, 'Planned maintenance')
    await shows(page, '#notes', /laser service.*No alert is sent/s)
    assert.equal(at(await statusOf(proxy), 'override', 'silent'), true)
    await tabTo('remove')
    await keyboard.press('Enter')
    await headline(page, 'Ready')
    await shows(page, '#words', /Planned maintenance/)

    await page.locator('input[value="closed"]').check()
    await simulator.setFiber('missing')
    await headline(page, 'Waiting for fiber')
    await page.locator('#reason').fill('I stand next to it')
    await keyboard.press('Enter')
    await headline(page, 'Let through by an operator')
    await shows(page, '#notes', /State according to the readings: Waiting for fiber, since/)

    const answers: [status: number, words: RegExp][] = [
      [429, /Too many wrong tokens were sent/],
      [404, /No token is configured any more/],
      [503, /Nothing was changed. The response was 503/],
    ]
    assert.deepEqual(withoutStatusErrors(faults), [])
    for (const [status, words] of answers) {
      await page.route('**/-/override', (route, request) =>
        request.method() === 'PUT' ? route.fulfill({ status, body: 'no JSON' }) : route.fallback(),
      )
      await page.locator('#reason').press('Enter')
      await result.filter({ hasText: words }).waitFor()
    }
    // Nothing is stored for the next user of the browser.
    assert.equal(await page.evaluate('localStorage.length + sessionStorage.length'), 0)
    assert.deepEqual(await page.context().cookies(), [])
  })

  test('lost contact is shown, the old state is marked, and the page reconnects', async t => {
    const browser = await browserOrSkip(t)
    if (browser === undefined) return
    const { simulator } = await simulate(t, { fiber: 'missing' })
    const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
    const { page, faults } = await visit(t, browser, `${proxy.url}/-/`)
    await headline(page, 'Waiting for fiber')
    await shows(page, '#contact', /^Live$/)
    assert.equal(await proxy.stop(), 0)
    const contact = page
      .getByRole('status')
      .filter({ hasText: /^No contact with focus-breaker since \d?\d:\d\d:\d\d\./ })
    await contact.waitFor()
    await page.locator('#banner.stale').waitFor()
    // Without notify.name it is named after focus-server.
    const { host } = new URL(simulator.url)
    await headline(page, 'Waiting for fiber')
    assert.equal(await page.title(), `No contact – ${host} – focus-breaker`)
    assert.match(String(await contact.locator('time').getAttribute('datetime')), /^\d{4}-.*Z$/)

    await simulator.setFiber('present')
    await startProxy(t, {
      upstream: simulator.url,
      env: FAST,
      args: ['--port', new URL(proxy.url).port],
    })
    await shows(page, '#contact', /^Live$/)
    await headline(page, 'Ready')
    assert.equal(await page.locator('#banner.stale').count(), 0)
    assert.equal(await page.title(), `Ready – ${host} – focus-breaker`)
    // The page listens again.
    await simulator.setFiber('missing')
    await headline(page, 'Waiting for fiber')
    assert.deepEqual(withoutLostConnections(faults), [])
  })

  test('the page notices a silent stream, and closes the stream in a background tab', async t => {
    const browser = await browserOrSkip(t)
    if (browser === undefined) return
    const { simulator } = await simulate(t)
    const env = { FOCUS_BREAKER_PROBE_PERIOD_MS: '600000' }
    const proxy = await startProxy(t, { upstream: simulator.url, env })
    const prepare = (page: Page) => page.clock.install()
    const { page, asked, listens } = await visit(t, browser, `${proxy.url}/-/`, { prepare })
    /** Advances the page's clock until a condition is true. */
    const passUntil = (what: string, condition: () => boolean | Promise<boolean>) =>
      until(
        async () => {
          await page.clock.runFor(500)
          return await condition()
        },
        { what, timeoutMs: 20_000 },
      )
    const contact = () => page.locator('#contact').textContent()
    await passUntil('the page is live', async () => (await contact()) === 'Live' && listens())
    await page.route('**/-/status', route => route.abort())
    await passUntil('the silence is noticed', async () => /^No contact/.test((await contact()) ?? ''))
    await page.unroute('**/-/status')
    await passUntil('the page is live again', async () => (await contact()) === 'Live' && listens())

    const setHidden = (isHidden: boolean) =>
      page.evaluate(
        `Object.defineProperty(document, 'hidden', { configurable: true, value: ${isHidden} });` +
          'document.dispatchEvent(new Event("visibilitychange"))',
      )
    const count = (path: string) => asked.filter(each => each === path).length
    await setHidden(true)
    await until(() => !listens(), { what: 'the stream is closed' })
    const [streams, asks] = [count('/-/events'), count('/-/status')]
    await passUntil('the state is requested periodically', () => count('/-/status') > asks)
    assert.equal(count('/-/events'), streams)
    await setHidden(false)
    await passUntil('the page listens again', listens)
  })

  test('the failure of another request does not count as lost contact, and its data is shown later', async t => {
    const browser = await browserOrSkip(t)
    if (browser === undefined) return
    const { simulator } = await simulate(t, { fiber: 'missing' })
    const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
    let isFailing = true
    let failed = 0
    const prepare = async (page: Page) => {
      await page.addInitScript(
        "new MutationObserver(() => { if (document.querySelector('#contact[data-contact=lost]')) window.wasLost = true })" +
          '.observe(document, { subtree: true, childList: true, attributes: true })',
      )
      await page.route('**/-/clients**', route => {
        if (!isFailing) return route.fallback()
        failed += 1
        return route.fulfill({ status: 503, json: {} })
      })
    }
    const { page, listens } = await visit(t, browser, `${proxy.url}/-/`, { prepare })
    await headline(page, 'Waiting for fiber')
    await refusals(proxy, 3, 'suite')
    await shows(page, '#notes', '3 requests refused. focus-server received none of them.')
    // The other responses of the same round arrived.
    await shows(page, '#outages-rows tr', /ongoing/)
    await until(() => failed >= 2, { what: 'the failed request is sent again', timeoutMs: 20_000 })
    isFailing = false
    await shows(page, '#clients-rows tr', /^suite/)
    await shows(page, '#contact', /^Live$/)
    assert.equal(await page.evaluate('window.wasLost'), undefined)
    assert.ok(listens(), 'the stream was closed')
  })

  test('an outage with two causes shows when each one applied', async t => {
    const browser = await browserOrSkip(t)
    if (browser === undefined) return
    const { simulator } = await simulate(t)
    const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
    await circuitIs(proxy, 'closed')
    await simulator.setFault('GET /live_metadata', { kind: 'status', code: 500 })
    await circuitIs(proxy, 'open')
    await simulator.setFiber('missing')
    await simulator.setFault('GET /live_metadata', null)
    await until(async () => at(await statusOf(proxy), 'circuit', 'cause') === 'waiting')
    const { states } = Object((await ask(`${proxy.url}/-/history`)).json)
    assert.deepEqual(
      states.map((each: unknown) => [at(each, 'state'), at(each, 'cause')]),
      [
        ['open', 'starting'],
        ['closed', null],
        ['open', 'unreachable'],
        ['open', 'waiting'],
      ],
    )
    const { page } = await visit(t, browser, `${proxy.url}/-/`)
    await headline(page, 'Waiting for fiber')
    await page
      .getByRole('img', { name: /^States from .*: .*waiting for fiber for .*, 1 outage\.$/ })
      .waitFor()
    await page.locator('summary', { hasText: 'States as a table' }).click()
    const words = await page.locator('#states-rows tr td:first-of-type').allTextContents()
    assert.deepEqual(words, ['Waiting for fiber', 'Metadata cannot be read', 'Ready', 'Starting'])
  })

  test('text from untrusted sources is shown as text, not as markup', async t => {
    const browser = await browserOrSkip(t)
    if (browser === undefined) return
    const evil = '<img src=x onerror="alert(1)"></td></table><script>alert(2)</script>'
    const turned = `${evil} \u202Egnp.exe\u2066 \u05D0`
    const metadata = JSON.stringify({ prr: 0, sw_version: turned, fiber_description: evil })
    const upstream = createServer((_request, response) => {
      response.writeHead(200, { 'content-type': 'application/json' }).end(metadata)
    })
    await new Promise<void>(resolve => upstream.listen(0, '127.0.0.1', resolve))
    t.after(() => upstream.close())
    const { port } = upstream.address() as AddressInfo
    const proxy = await startProxy(t, { upstream: `http://127.0.0.1:${port}`, env: WITH_TOKEN })
    await refusals(proxy, 1, evil)
    const { page, faults } = await visit(t, browser, `${proxy.url}/-/`)
    await headline(page, 'Waiting for fiber')
    const isolated = (selector: string) => page.locator(`${selector} bdi`).first()
    await page.locator('#others-rows').waitFor({ state: 'attached' })
    assert.equal(await isolated('#others-rows').textContent(), evil)
    await shows(page, '#metadata-rows', evil)
    assert.equal((await put(proxy, { state: 'open', reason: turned, forSeconds: 600 })).statusCode, 200)
    await headline(page, 'Stopped by an operator')
    assert.equal(await isolated('#notes .reason').textContent(), turned)
    await until(async () => (await isolated('#standing').textContent()) === turned)
    assert.equal((await put(proxy, { state: 'open', reason: 'next', forSeconds: 600 })).statusCode, 200)
    await until(async () => (await page.locator('#words-rows').textContent())?.includes(turned))
    for (const selector of ['#others-rows', '#notes .reason', '#metadata-rows', '#standing']) {
      const bidi = `getComputedStyle(document.querySelector('${selector} bdi')).unicodeBidi`
      assert.equal(await page.evaluate(bidi), 'plaintext', selector)
    }
    assert.equal(await page.locator('img, table script, td td').count(), 0)
    assert.doesNotMatch(await page.title(), /img/)
    assert.deepEqual(faults, [])
  })

  test('a script that focus-server serves does not run, even if a tag for it gets into the page', async t => {
    const browser = await browserOrSkip(t)
    if (browser === undefined) return
    const upstream = createServer(({ url }, response) => {
      const [type, body] =
        url === '/planted.js'
          ? ['text/javascript', 'document.title = "planted"']
          : ['application/json', '{"prr":2000,"sw_version":"11.17","fiber_description":"site A"}']
      response.writeHead(200, { 'content-type': type }).end(body)
    })
    await new Promise<void>(resolve => upstream.listen(0, '127.0.0.1', resolve))
    t.after(() => upstream.close())
    const { port } = upstream.address() as AddressInfo
    const proxy = await startProxy(t, { upstream: `http://127.0.0.1:${port}`, env: FAST })
    assert.equal((await ask(`${proxy.url}/planted.js`)).statusCode, 200)
    const tags = '<script src="/planted.js"></script><script type="module" src="/planted.js"></script>'
    const { page, faults } = await visit(t, browser, `${proxy.url}/-/`, {
      prepare: each =>
        each.route(/\/-\/$/, async route => {
          const response = await route.fetch()
          const body = (await response.text()).replace('</head>', `${tags}</head>`)
          await route.fulfill({ response, body })
        }),
    })
    await until(() => faults.filter(fault => /planted\.js/.test(fault)).length >= 2)
    await headline(page, 'Ready')
    assert.doesNotMatch(await page.title(), /planted/)
  })

  test('the state and the list show one outage with the same counts at every moment', async t => {
    const browser = await browserOrSkip(t)
    if (browser === undefined) return
    const { simulator } = await simulate(t, { fiber: 'missing' })
    const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
    let isSlow = false
    const prepare = async (page: Page) => {
      // The list arrives less often than the state: from now on it stays as it was.
      await page.route(/\/-\/outages/, route => (isSlow ? undefined : route.fallback()))
    }
    const { page, faults } = await visit(t, browser, `${proxy.url}/-/`, { prepare })
    await headline(page, 'Waiting for fiber')
    await refusals(proxy, 5, 'suite')
    await page.locator('#outages-rows a').click()
    await shows(page, '#outage-panel', /5 requests were refused\./)
    isSlow = true
    await refusals(proxy, 3, 'suite')
    await shows(page, '#notes', '8 requests refused. focus-server received none of them.')
    await shows(page, '#outages-rows tr.now', /Waiting for fiber \(prr\)801–$/)
    await shows(page, '#outage-panel', /8 requests were refused\..*none of them reached it/)
    await shows(page, '#outages-sum', /During outages, 8 requests were refused\./)
    assert.deepEqual(faults, [])
  })

  test('the link that skips to the state leaves an outage open', async t => {
    const browser = await browserOrSkip(t)
    if (browser === undefined) return
    const { simulator } = await simulate(t, { fiber: 'missing' })
    const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
    const { page, faults } = await visit(t, browser, `${proxy.url}/-/`)
    await page.locator('#outages-rows a').click()
    await page.locator('#outage-panel').waitFor()
    await page.locator('.skip').focus()
    await page.keyboard.press('Enter')
    assert.equal(await page.evaluate('document.activeElement.id'), 'main')
    assert.match(page.url(), /#outage-\w+$/)
    await page.locator('#outage-panel').waitFor()
    await page.keyboard.press('Tab')
    assert.equal(await page.evaluate('document.activeElement.tagName'), 'SUMMARY')
    assert.deepEqual(faults, [])
  })

  test('forced colours leave the symbol and the line to the fiber visible', async t => {
    const browser = await browserOrSkip(t)
    if (browser === undefined) return
    const { simulator } = await simulate(t, { fiber: 'missing' })
    const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
    const options = { forcedColors: 'active', reducedMotion: 'reduce' } as const
    const { page, faults } = await visit(t, browser, `${proxy.url}/-/`, options)
    await headline(page, 'Waiting for fiber')
    for (const colorScheme of ['light', 'dark'] as const) {
      await page.emulateMedia({ colorScheme, ...options })
      const [text, canvas, ...drawn] = (await page.evaluate(
        `(style => [
          style('#banner').color, style('#banner').backgroundColor, style('#symbol').stroke,
          style('.way .node', '::before').borderTopColor, style('.way .self', '::before').backgroundColor,
          style('.way .link[data-is=flow]', '::before').backgroundColor,
          style('#to-server', '::before').backgroundImage.match(/rgb\\([^)]*\\)/)[0], style('#to-server', '::after').color,
        ])((selector, part) => getComputedStyle(document.querySelector(selector), part))`,
      )) as readonly string[]
      assert.notEqual(text, canvas)
      assert.deepEqual([...new Set(drawn)], [text], colorScheme)
    }
    assert.deepEqual(faults, [])
  })

  test('every state is described in words that a tester understands', async t => {
    const browser = await browserOrSkip(t)
    if (browser === undefined) return
    const { simulator } = await simulate(t)
    const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
    const real = await statusOf(proxy)
    assert.ok(typeof real === 'object' && real !== null)
    const circuit = (state: string, cause: string | null) => ({
      state,
      cause,
      since: '2026-01-02T10:31:00.000Z',
    })
    const override = (state: string, silent = false) => ({
      override: {
        state,
        silent,
        reason: 'why',
        since: '2026-01-02T10:31:00.000Z',
        until: '2999-01-01T00:00:00.000Z',
        by: '::1',
      },
    })
    const unreachable = {
      kind: 'unreachable',
      at: new Date().toISOString(),
      ageMs: 1,
      source: 'probe',
      problem: 'connection refused',
      streak: 3,
    }
    const refused = { admits: false, refusal: 'waiting_for_fiber' }
    const open = {
      ...refused,
      circuit: circuit('open', 'waiting'),
      reading: {
        ...unreachable,
        kind: 'waiting',
        problem: undefined,
        missing: ['prr'],
        metadata: { prr: null },
      },
    }
    const dead = { ...open, reading: unreachable, circuit: circuit('open', 'unreachable') }
    const outage = { startedAt: '2026-01-02T10:31:00.000Z', refused: 12, wouldRefuse: 0, operations: 1 }
    const contradiction = { disagreement: { since: '2026-01-02T10:31:00.000Z', missing: ['prr'] } }
    const cases: [change: object, headline: string, also: RegExp][] = [
      [{}, 'Ready', /Jobs can start/],
      [{ admits: false, refusal: 'overloaded' }, 'Ready', /Full at the moment/],
      [
        open,
        'Waiting for fiber',
        /Decided by prr, which is null\..*What to do: connect the fiber.*No request has been refused yet\./s,
      ],
      [{ ...open, refusal: 'recovering' }, 'Recovering: waiting for one more successful probe', /refused/],
      [
        { ...open, refusal: 'recovering', ...override('open') },
        'Stopped by an operator',
        /State according to the readings: Recovering, waiting for one more successful probe, since/,
      ],
      [
        { ...open, circuit: circuit('half-open', 'waiting') },
        'Recovering',
        /The fiber is back\. Requests are admitted a few at a time/,
      ],
      [
        { ...open, circuit: circuit('half-open', 'unreachable') },
        'Recovering',
        /The metadata can be read again\. Requests are admitted a few at a time/,
      ],
      [
        { ...open, ...contradiction, circuit: circuit('half-open', 'waiting') },
        'Recovering',
        /^(?!.*The fiber is back).*Requests are admitted a few at a time.*contradicts itself/s,
      ],
      // A server that is down receives nothing anyway, even if all refusals so far came before it went down.
      [
        { ...dead, outage: { ...outage, spared: 12 } },
        'focus-server’s metadata cannot be read',
        /12 requests refused, all of them while focus-server was up\.(?!.*received)/s,
      ],
      [
        { ...dead, outage: { ...outage, spared: 5 } },
        'focus-server’s metadata cannot be read',
        /12 requests refused, 5 of them while focus-server was up\.(?!.*received)/s,
      ],
      [
        { ...dead, outage: { ...outage, spared: 0 } },
        'focus-server’s metadata cannot be read',
        /12 requests refused\.(?!.*received)/s,
      ],
      [
        { ...open, outage: { ...outage, spared: 12 } },
        'Waiting for fiber',
        /12 requests refused\. focus-server received none of them\./,
      ],
      [
        { ...open, reading: unreachable, circuit: circuit('open', 'unreachable') },
        'focus-server’s metadata cannot be read',
        /The state of the fiber is unknown: connection refused\..*What to do: check that focus-server is running/s,
      ],
      [
        { ...open, reading: null, circuit: circuit('open', 'starting') },
        'Starting: no reading yet',
        /None yet/,
      ],
      [
        { ...open, mode: 'observe', totals: { ...Object(at(real, 'totals')), wouldRefuse: 4810 } },
        'Waiting for fiber',
        /Observe mode: no request is refused.*4,810 requests would have been refused since .*; all of them were forwarded.*set guard\.mode to enforce/s,
      ],
      [
        { ...open, mode: 'observe', circuit: circuit('half-open', 'waiting') },
        'Recovering',
        /Observe mode: no request is refused(?!.*a few at a time)/s,
      ],
      [
        { ...open, forecast: { p50Seconds: 180, p90Seconds: 540, samples: 12 } },
        'Waiting for fiber',
        /likely to last 3 min in total; one in ten lasts more than 9 min\. An estimate from 12 earlier outages with a missing fiber\./,
      ],
      [
        contradiction,
        'Ready',
        /^(?!.*Jobs can start).*Requests are admitted\..*focus-server contradicts itself/s,
      ],
      [
        { ...open, ...override('open') },
        'Stopped by an operator',
        /until .*why.*State according to the readings: Waiting for fiber/s,
      ],
      [
        { ...open, ...override('open', true) },
        'Planned maintenance',
        /until .*why.*No alert is sent.*State according to the readings: Waiting for fiber/s,
      ],
      [
        { ...open, admits: true, ...override('closed') },
        'Let through by an operator',
        /No request is refused, whatever the state of the fiber/,
      ],
    ]
    let change: object = {}
    const prepare = (page: Page) =>
      page.route('**/-/status', route => route.fulfill({ json: { ...real, ...change } }))
    const { page, faults } = await visit(t, browser, `${proxy.url}/-/`, { prepare })
    for (const [next, words, also] of cases) {
      change = next
      await page.reload()
      await headline(page, words)
      await shows(page, 'main', also)
      assert.equal(await page.title(), `${words} – ${at(real, 'name')} – focus-breaker`)
    }
    assert.deepEqual(faults, [])
  })

  test('its pictures in docs/ show the demo: open, closed, and in Hebrew', { timeout: 600_000 }, async t => {
    const browser = await browserOrSkip(t)
    if (browser === undefined) return
    if (process.env.UPDATE_SCREENSHOTS === '1') await takePictures(t, browser)
    for (const name of PICTURES) {
      const file = join(repositoryRoot, 'docs', name)
      assert.ok(existsSync(file), `${name} is missing: run this test with UPDATE_SCREENSHOTS=1`)
      assert.ok(statSync(file).size < 150_000, `${name} is too large`)
    }
  })

  test('without JavaScript it links to the plain status', async t => {
    const browser = await browserOrSkip(t)
    if (browser === undefined) return
    const { simulator } = await simulate(t)
    const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
    const context = await browser.newContext({ javaScriptEnabled: false })
    t.after(() => context.close())
    const page = await context.newPage()
    await page.goto(`${proxy.url}/-/`)
    // Nothing waits for a text that does not come.
    for (const each of await page.locator('.skip, #contact, summary, h2').all()) {
      assert.equal(await each.isVisible(), false, String(await each.getAttribute('class')))
    }
    await page.locator('noscript a').click()
    assert.equal(page.url(), `${proxy.url}/-/status`)
  })

  test('it reloads when its scripts are of two incompatible versions', async t => {
    const browser = await browserOrSkip(t)
    if (browser === undefined) return
    const { simulator } = await simulate(t)
    const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
    let older = 0
    const prepare = (page: Page) =>
      page.route('**/-/page/formats.js', route => {
        older += 1
        if (older > 1) return route.fallback()
        return route.fulfill({ contentType: 'text/javascript', body: 'export const earlierName = 1' })
      })
    const { faults } = await visit(t, browser, `${proxy.url}/-/`, { prepare })
    assert.equal(older, 2)
    assert.deepEqual(
      faults.filter(fault => !fault.startsWith('SyntaxError')),
      [],
    )
  })

  test('it works below a base path, with and without its last slash', async t => {
    const browser = await browserOrSkip(t)
    if (browser === undefined) return
    const { simulator } = await simulate(t)
    const env = { ...FAST, FOCUS_BREAKER_BASE_PATH: '/focus-server' }
    const proxy = await startProxy(t, { upstream: simulator.url, env })
    const { page, faults, asked } = await visit(t, browser, `${proxy.url}/focus-server/-`)
    assert.equal(page.url(), `${proxy.url}/focus-server/-/`)
    await outageAt(page, simulator)
    await reportAt(page, `${proxy.url}/focus-server/-/`)
    assert.deepEqual([...new Set(asked.filter(path => !path.startsWith('/focus-server/-')))], [])
    assert.deepEqual(faults, [])
  })

  test('it works behind an ingress that removes a prefix', async t => {
    if (!requireOrSkip(t, 'nginx')) return
    const browser = await browserOrSkip(t)
    if (browser === undefined) return
    const { simulator } = await simulate(t)
    const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
    const ingress = await startIngress(t, { upstream: proxy.url })
    const { page, faults } = await visit(t, browser, `${ingress.url}/focus-server/-`)
    assert.equal(page.url(), `${ingress.url}/focus-server/-/`)
    await outageAt(page, simulator)
    await reportAt(page, `${ingress.url}/focus-server/-/`)
    assert.deepEqual(faults, [])
  })
})

const PICTURES = ['page-open.png', 'page-closed.png', 'page-open-he.png'] as const

/** Plays the demo for five minutes, and takes the pictures in its fourth outage and after it. */
async function takePictures(t: TestContext, browser: Browser) {
  const { ready: base } = await startProgram(t, {
    command: process.execPath,
    args: [join(repositoryRoot, 'dist/cli/main.js'), 'demo', '--port', '0'],
    readyWhen: line => /http:\/\/\S+\/-\//.exec(line)?.[0],
  })
  const take = async (name: (typeof PICTURES)[number], locale: string, fixtures: Fixtures) => {
    const { page, faults } = await visit(t, browser, base, {
      ...{ locale, timezoneId: 'UTC', reducedMotion: 'reduce', viewport: { width: 1000, height: 1180 } },
      prepare: page => fixPast(page, fixtures),
    })
    await page.locator('#clients-card').waitFor()
    await page.evaluate('document.fonts.ready')
    await page.screenshot({ path: join(repositoryRoot, 'docs', name), animations: 'disabled' })
    assert.deepEqual(faults, [])
    await page.close()
  }
  const inOutage = await momentOf(base, ({ circuit, outage }) => circuit === 'open' && outage > 15)
  await take('page-open.png', 'en-GB', inOutage)
  await take('page-open-he.png', 'he-IL', inOutage)
  await take('page-closed.png', 'en-GB', await momentOf(base, ({ circuit }) => circuit === 'closed'))
}

/** The responses of all routes of the page at one moment of the demo, after three outages, when their numbers agree. */
async function momentOf(
  base: string,
  isWanted: (now: { readonly circuit: unknown; readonly outage: number }) => boolean,
): Promise<Fixtures> {
  const names = ['status', 'history', 'outages', 'clients', 'override'] as const
  const sum = (list: unknown, member: string) =>
    Array.isArray(list) ? list.reduce((all, each) => all + Number(at(each, member)), 0) : Number.NaN
  return await until(
    async () => {
      const bodies = await Promise.all(names.map(async name => Object((await ask(base + name)).json)))
      const [status, history, outages, clients] = bodies
      const refused = at(status, 'totals', 'refused')
      const known = at(outages, 'outages')
      const outage = Number(at(status, 'outage', 'refused') ?? 0)
      if (!Array.isArray(known) || known.length < 4) return undefined
      if (!isWanted({ circuit: at(status, 'circuit', 'state'), outage })) return undefined
      const sums = [sum(known, 'refused'), sum(at(history, 'refused'), 'count')]
      if ([...sums, sum(at(clients, 'clients'), 'attempts')].some(each => each !== refused)) return undefined
      return Object.fromEntries(names.map((name, index) => [name, bodies[index]]))
    },
    { what: 'the numbers of the demo agree', timeoutMs: 400_000, everyMs: 200 },
  )
}

async function outageAt(page: Page, simulator: Awaited<ReturnType<typeof simulate>>['simulator']) {
  await headline(page, 'Ready')
  await simulator.setFiber('missing')
  await headline(page, 'Waiting for fiber')
  await simulator.setFiber('present')
  await headline(page, 'Ready')
}

/** Follows the link to a report, and back. */
async function reportAt(page: Page, base: string) {
  await page.locator('.reports a', { hasText: '30 days' }).click()
  await page.waitForURL(`${base}report?days=30`)
  await shows(page, 'h1', /\w/)
  await page.goBack()
  await headline(page, 'Ready')
}

/**
 * What the browser reports when the proxy stops: the connection breaks, or a request that is still accepted gets 503
 * from a proxy that is shutting down.
 */
const withoutLostConnections = (faults: readonly string[]) =>
  faults.filter(
    fault =>
      !/net::ERR_(CONNECTION_REFUSED|CONNECTION_RESET|EMPTY_RESPONSE|INCOMPLETE_CHUNKED)/.test(fault) &&
      !/Failed to load resource: the server responded with a status of 503/.test(fault),
  )

/** The browser itself reports each response of 400 and above. */
const withoutStatusErrors = (faults: readonly string[]) =>
  faults.filter(fault => !/Failed to load resource: the server responded with a status of/.test(fault))
