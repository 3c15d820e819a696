import assert from 'node:assert/strict'
import { after, describe, test } from 'node:test'
import { browserOrSkip, closeBrowser, shows, violations, visit } from '../support/browser.js'
import { circuitIs, startProxy } from '../support/harness.js'
import { FAST } from '../support/http-client.js'
import { type Fixtures, fixPast } from '../support/page-fixtures.js'
import { simulate } from '../support/simulate.js'

after(closeBrowser)

type Shown = {
  readonly name: string
  readonly joined: boolean
  readonly problem: string | null
  readonly count: number
  readonly prober: boolean
}

const JOINED: Shown = { name: 'r0', joined: true, problem: null, count: 3, prober: false }

const ROWS: readonly (readonly [what: string, shown: Shown, line: string])[] = [
  ['one of several', JOINED, 'Replica r0, one of 3.'],
  ['the one that probes', { ...JOINED, prober: true }, 'Replica r0, one of 3. It probes for all of them.'],
  ['the only one', { ...JOINED, count: 1, prober: true }, 'Replica r0, the only one.'],
  [
    'one that is alone',
    { ...JOINED, joined: false, problem: 'connection <b>refused</b>', count: 1, prober: true },
    'Replica r0 cannot reach the other replicas and uses only its own readings: connection <b>refused</b>.',
  ],
  ['one with an odd name', { ...JOINED, name: '<i>x</i>' }, 'Replica <i>x</i>, one of 3.'],
]

describe('the line about replicas', () => {
  test('says how many there are, and whether this one is alone; without replicas there is no such line', async t => {
    const browser = await browserOrSkip(t)
    if (browser === undefined) return
    const { simulator } = await simulate(t)
    const proxy = await startProxy(t, { upstream: simulator.url, env: FAST })
    await circuitIs(proxy, 'closed')
    const open = (fixtures: Fixtures) =>
      visit(t, browser, `${proxy.url}/-/`, { prepare: page => fixPast(page, fixtures) })
    for (const [what, replicas, line] of ROWS) {
      const { page, faults } = await open({ status: { replicas } })
      await shows(page, '#replicas', line)
      assert.equal(await page.locator('#replicas').isVisible(), true, what)
      assert.deepEqual(await violations(page), [], what)
      assert.deepEqual(faults, [], what)
      await page.close()
    }
    const { page, faults } = await open({})
    await shows(page, '#counts-since', /^Since/)
    assert.equal(await page.locator('#replicas').isVisible(), false)
    assert.deepEqual(faults, [])
  })
})
