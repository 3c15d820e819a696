import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { after, type TestContext, test } from 'node:test'
import type { Page } from 'playwright-core'
import { browserOrSkip, closeBrowser } from '../support/browser.js'
import { at, circuitIs, requireOrSkip, startProxy } from '../support/harness.js'
import { FAST } from '../support/http-client.js'
import { portOf } from '../support/raw.js'
import { liveConfigure, startFocusServer } from '../support/uvicorn-focus-server.js'

after(closeBrowser)

/** The origin of an empty page of another site. */
async function origin(t: TestContext): Promise<string> {
  const server = createServer((_request, response) =>
    response.setHeader('content-type', 'text/html').end('<p>a page'),
  )
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => server.close())
  return `http://127.0.0.1:${portOf(server)}`
}

/** The parts of a response that a script of the page can read. */
function seen(page: Page, url: string, init: object = {}): Promise<unknown> {
  return page.evaluate(`fetch(${JSON.stringify(url)}, ${JSON.stringify(init)}).then(
    async response => ({ status: response.status, retryAfter: response.headers.get('retry-after'), body: await response.text() }),
    error => ({ error: error.name }),
  )`)
}

test("a script of another origin sees a refusal's status, body and Retry-After, where focus-server allows it", async t => {
  const browser = await browserOrSkip(t)
  if (browser === undefined || !requireOrSkip(t, 'uvicorn')) return
  const allowed = await origin(t)
  const upstream = await startFocusServer(t, { origins: [allowed], credentials: true })
  const proxy = await startProxy(t, { upstream: upstream.url, env: FAST })
  await upstream.setFiber('missing')
  await circuitIs(proxy, 'open')
  const context = await browser.newContext()
  t.after(() => context.close())
  const page = await context.newPage()
  await page.goto(allowed)
  const configure = { method: 'POST', headers: { 'content-type': 'application/json' }, body: liveConfigure }
  for (const credentials of ['omit', 'include']) {
    const refusal = await seen(page, `${proxy.url}/configure`, { ...configure, credentials })
    assert.equal(at(refusal, 'status'), 503)
    assert.match(String(at(refusal, 'retryAfter')), /^[1-5]$/)
    assert.match(String(at(refusal, 'body')), /"status":"waiting_for_fiber"/)
  }
  assert.equal(await upstream.handled('configure'), 0)
  const waited = await seen(page, `${proxy.url}/-/wait?timeout=1s`)
  assert.equal(at(waited, 'status'), 503)
  await upstream.setFiber('present')
  await circuitIs(proxy, 'closed')
  assert.equal(at(await seen(page, `${proxy.url}/-/wait?timeout=1s`), 'status'), 200)
  assert.equal(at(await seen(page, `${proxy.url}/configure`, configure), 'status'), 200)

  const other = await context.newPage()
  await other.goto(await origin(t))
  assert.equal(at(await seen(other, `${proxy.url}/configure`, configure), 'error'), 'TypeError')
  assert.equal(at(await seen(other, `${proxy.url}/-/wait?timeout=1s`), 'error'), 'TypeError')
})
