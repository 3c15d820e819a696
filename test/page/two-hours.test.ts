import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import type { Page } from 'playwright-core'
import { browserOrSkip, closeBrowser, violations, visit } from '../support/browser.js'
import { until } from '../support/harness.js'
import { type Moment, twoHours } from '../support/two-hours.js'

after(closeBrowser)

/** The texts on the page at each moment of the scenario. The seconds of a running time advance while it is read. */
const EXPECTED_TEXTS: Readonly<Record<Moment, readonly RegExp[]>> = {
  'the server is dead': [
    /since 23:25 \(\d+ sec\), within an outage since 23:10 \(15 min/,
    /The state of the fiber is unknown: connection refused\./,
    /46 requests refused, 45 of them while focus-server was up\./,
    /46 since 23:00, at most 3 in a minute, at 23:10/,
    /refused 46 forwarded 3 /,
    /15 min ongoing Waiting for fiber \(prr, sw_version\), then metadata unreadable 46 2/,
  ],
  'let through': [
    /Let through by an operator until 23:45 \(9 min \d+ sec left\) laser check/,
    /Set at 23:35 by 127\.0\.0\.1\./,
    /State according to the readings: Waiting for fiber, since 23:28 \(7 min.*\), within an outage since 23:10 \(25 min/,
    /refused 67 forwarded 5 /,
  ],
  recovering: [
    /Recovering since 00:00 \(\d+ sec\), within an outage since 10 Mar, 23:10 \(50 min/,
    /112 requests refused, 105 of them while focus-server was up\./,
    /112 since 23:00, at most 3 in a minute/,
    /refused 112 forwarded 6 /,
  ],
  maintenance: [
    /Planned maintenance until 00:35 \(4 min \d+ sec left\) laser service/,
    /State according to the readings: Ready, since 00:02 \(27 min\)\./,
    /Focus-Server-Automation\/1\.0\.0 127\.0\.0\.1 75 7 irregular/,
    /113 since 23:00, at most 3 in a minute/,
    /refused 113 forwarded 7 /,
  ],
  'the end': [
    /Ready since 00:02 \(57 min\)/,
    /The last outage ended at 00:02 after 52 min\. 112 requests were refused\./,
    /113 since 23:00, at most 3 in a minute/,
    /refused 113 forwarded 7 .*Since 10 Mar, 23:00, across restarts\./,
    /No client has repeated a refused request in the last 5 minutes\./,
    /10 Mar, 23:10 52 min Waiting for fiber .*, then metadata unreadable, then waiting for fiber 112 12 00:02/,
  ],
}

const SAID_OF_THE_OUTAGE = [
  /From 10 Mar 2026, 23:10:00 to 00:02:12 \(52 min\)\. 112 requests were refused\. They came from 12 distinct operations\./,
  /focus-server was up during 105 of them, and none of these reached it; the others came while its metadata could not be read/,
  /23:10:00 Waiting for fiber The fiber is missing \(prr, sw_version\); a probe/,
  /23:25:00 Metadata cannot be read .*connection refused; a probe .* 23:28:00 Waiting for fiber/,
  /23:35:00 Let through by an operator laser check; set by 127\.0\.0\.1, .*removed by 127\.0\.0\.1/,
  /23:45:00 focus-breaker was not running .* 23:46:00 Waiting .* 23:50:00 focus-breaker was not running .* 23:50:30 Waiting/,
  /00:00:02 Recovering .* 00:00:05 Waiting for fiber .* 00:02:02 Recovering .* 00:02:12 Ready/,
  /Focus-Server-Automation\/1\.0\.0 127\.0\.0\.1 74 .*Desktop\/4\.2 127\.0\.0\.1 38 /,
  /nightly-7 74 requests without a test run 38/,
  /00:00:02 Focus-Server-Automation\/1\.0\.0 127\.0\.0\.1 nightly-7 POST \/configure 00:02:02 Desktop\/4\.2/,
]

const SAID_BY_THE_REPORT = [
  /ready for jobs 52\.99% waiting for fiber 42 min focus-server unreachable 3 min outages 1 attempts refused 113/,
  /observed 1 hr 58 min of this period and did not run for 1 min 30 sec\./,
  /Other states: recovering 13 sec, planned maintenance 5 min, let through by an operator 5 min\./,
  /There is no data from before 10 Mar, 23:00 UTC\./,
  /The longest outage lasted 52 min: 10 Mar, 23:10, waiting for fiber\./,
  /focus-server could not be reached 1 time, for 3 min at most\./,
  /105 of 113 refused attempts came while the fiber was missing and focus-server was up\./,
  /Time saved: 105 attempts times .* median of the 5 guarded requests/,
  /10 Mar, 23:00 17\.09% 40 min 3 min 1 112/,
  /11 Mar, 00:00 88% 1 min 59 sec – 0 1/,
  /Focus-Server-Automation\/1\.0\.0 127\.0\.0\.1 75 .*Desktop\/4\.2 127\.0\.0\.1 38 /,
  /nightly-7 75 requests without a test run 38/,
]

/** Waits until the page shows all of these. */
async function says(page: Page, sentences: readonly RegExp[]): Promise<void> {
  let text = ''
  const missing = () => sentences.filter(sentence => !sentence.test(text))
  await until(
    async () => {
      text = (await page.locator('body').innerText()).replace(/\s+/g, ' ')
      return missing().length === 0
    },
    { what: 'the page says it' },
  ).catch(() => {})
  assert.deepEqual(missing(), [], text)
}

test('after two played hours the page and the report show what was played', async t => {
  const browser = await browserOrSkip(t)
  if (browser === undefined) return
  await twoHours(t, async (moment, proxy) => {
    const options = { reducedMotion: 'reduce', timezoneId: 'UTC' } as const
    const { page, faults } = await visit(t, browser, `${proxy.url}/-/`, options)
    await says(page, EXPECTED_TEXTS[moment])
    if (moment === 'the end') {
      await page.getByRole('link', { name: '10 Mar, 23:10' }).click()
      await says(page, SAID_OF_THE_OUTAGE)
      await page.locator('#outages-rows rect.is-let-through').first().waitFor({ state: 'attached' })
      assert.deepEqual(await violations(page), [])
      await page.goto(`${proxy.url}/-/report?days=1`)
      await says(page, SAID_BY_THE_REPORT)
    }
    assert.deepEqual(faults, [])
    await page.close()
  })
})
