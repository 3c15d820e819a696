import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fastify } from 'fastify'
import { outageId } from '../../src/domain/outage-id.js'
import { outages } from '../../src/routes/outages-route.js'
import { report } from '../../src/routes/report-route.js'
import { OPERATOR } from '../support/breaker-set-up.js'
import { at } from '../support/harness.js'
import { historyPath, runProcess } from '../support/kept-buckets.js'

const NAME = 'lab 3'

/** The routes with the records of one process. */
function routesOf(process: ReturnType<typeof runProcess>) {
  const app = fastify()
  const { outageLog, details: outageDetails, buckets, breaker, clock } = process
  const known = () => ({
    ...{ outageLog, outageDetails, buckets, pastOverrides: breaker.pastOverrides, replicas: undefined },
  })
  outages(app, { known, breaker, clock })
  report(app, { known, clock, name: () => NAME, isKept: () => true })
  const get = async (url: string, accept = '*/*') => app.inject({ url, headers: { accept } })
  return { get, json: async (url: string): Promise<unknown> => (await get(url)).json() }
}

test('an outage shows the overrides in force during it, including the current one, and no others', async () => {
  const process = runProcess(undefined, 0)
  const { see, breaker, pass } = process
  const set = (reason: string) => breaker.setOverride({ state: 'open', reason, forSeconds: 60 }, OPERATOR)
  see('+')
  set('before')
  pass(500)
  breaker.removeOverride(OPERATOR)
  see('-')
  set('during')
  pass(1000)
  breaker.removeOverride(OPERATOR)
  pass(1000)
  set('still')
  const { json } = routesOf(process)
  const detail = await json(`/-/outages/${outageId(2500)}`)
  const words = (index: number) =>
    ['reason', 'end', 'endedBy'].map(name => at(detail, 'overrides', index, name))
  assert.deepEqual(
    [words(0), words(1), at(detail, 'overrides', 2)],
    [['during', 'removed', OPERATOR], ['still', null, null], undefined],
  )
  breaker.shutdown()
})

test('the CSV of an outage contains every fact, and no user agent becomes a formula', async () => {
  const process = runProcess(undefined, 0)
  const { see, ask } = process
  see('+ -')
  ask({ userAgent: '=HYPERLINK("http://192.0.2.1","x")', run: '-1' })
  ask({ userAgent: 'a, "quoted" one' })
  const stop = { state: 'open', reason: 'a line\n@break', forSeconds: 60, silent: true } as const
  process.breaker.setOverride(stop, OPERATOR)
  process.pass(500)
  process.breaker.removeOverride('@192.0.2.9')
  see('++')
  ask({ userAgent: '@let in' })
  see('++++')
  const { get } = routesOf(process)
  const { body, headers } = await get(`/-/outages/${outageId(2000)}?format=csv`)
  assert.match(String(headers['content-type']), /^text\/csv/)
  const rows = body.trimEnd().split('\r\n')
  assert.deepEqual(
    rows.map(row => row.split(',')[0]),
    [
      ...['what', 'outage', 'cause', 'change', 'change', 'change', 'override', 'minutes', 'minutes unknown'],
      ...['client', 'client', 'other clients', 'run', 'other runs', 'without run', 'let in'],
    ],
  )
  const columns = rows[0]?.split(',').length
  assert.ok(rows.every(row => row.replace(/"(?:[^"]|"")*"/g, 'x').split(',').length === columns))
  assert.match(rows[1] ?? '', /,2,0,19700101T000002000Z,0,2,1,,,$/)
  assert.match(body, /,true,removed,'@192\.0\.2\.9\r\n/)
  assert.match(body, /,"'=HYPERLINK\(""http:\/\/192\.0\.2\.1"",""x""\)",/)
  assert.match(body, /,"a, ""quoted"" one",/)
  assert.match(body, /,'-1,/)
  assert.match(body, /,'@let in,/)
})

test('an outage without details shows its counts as those of other clients', async t => {
  const path = historyPath(t)
  const before = runProcess(path, 0)
  before.see('+ -')
  before.ask({ run: 'nightly' })
  before.ask()
  const detail = before.details.of(before.outageLog.outages()[0] ?? assert.fail())
  assert.ok(detail !== undefined)
  before.details.of = () => undefined
  const { json } = routesOf(before)
  const body = await json(`/-/outages/${outageId(2000)}`)
  const two = { refused: 2, wouldRefuse: 0 }
  assert.deepEqual(at(body, 'otherClients'), two)
  assert.deepEqual(at(body, 'withoutRun'), two)
  assert.deepEqual(at(body, 'minutes'), { spanMinutes: 1, counts: [], unknown: two })
  assert.deepEqual(at(body, 'causes'), [{ cause: 'waiting', from: '1970-01-01T00:00:02.000Z', to: null }])
  before.close()
})

test('an unknown outage is a 404, and an invalid parameter a 400 that states the expected value', async () => {
  const { get } = routesOf(runProcess(undefined, 0))
  assert.equal((await get('/-/outages/20260131T083000000Z')).statusCode, 404)
  for (const id of ['%00', '..%2Fstatus', 'x'.repeat(80)])
    assert.equal((await get(`/-/outages/${id}`)).statusCode, 404, id)
  for (const query of [
    'days=0',
    'days=401',
    'days=1.5',
    'days=1e1',
    'days=0x10',
    'days=',
    'days=x',
    'format=xml',
    'table=x',
    'table=',
  ])
    assert.equal((await get(`/-/report?${query}`)).statusCode, 400, query)
})

test('the format follows the parameter, then the weights of Accept', async () => {
  const { get } = routesOf(runProcess(undefined, 0))
  const browser = 'text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8'
  const expected: readonly (readonly [query: string, accept: string, type: string])[] = [
    ['', '*/*', 'application/json'],
    ['', browser, 'text/html'],
    ['', 'text/csv', 'text/csv'],
    ['', 'application/json, text/html;q=0.5', 'application/json'],
    ['', 'text/csv;q=0.1, application/json;q=0.2', 'application/json'],
    ['?format=json', browser, 'application/json'],
    ['?format=csv', browser, 'text/csv'],
    ['?format=html', '*/*', 'text/html'],
  ]
  for (const [query, accept, type] of expected) {
    const { headers } = await get(`/-/report${query}`, accept)
    assert.ok(
      String(headers['content-type']).startsWith(type),
      `${query} ${accept}: ${headers['content-type']}`,
    )
    assert.match(String(headers.vary), /accept/)
  }
})

test('the CSV report has a row for each day, and tables of clients and test runs', async () => {
  const process = runProcess(undefined, 86_400_000 * 20)
  process.see('+ -')
  process.ask({ userAgent: '+1', run: 'nightly' })
  process.ask()
  const { get, json } = routesOf(process)
  const rows = (await get('/-/report?days=7&format=csv')).body.trimEnd().split('\r\n')
  assert.equal(rows.length, 8)
  assert.ok(rows.every(row => row.split(',').length === rows[0]?.split(',').length))
  assert.match((await get('/-/report?format=csv&table=clients')).body, /192\.0\.2\.7,'\+1,1,0,/)
  assert.match(
    (await get('/-/report?format=csv&table=runs')).body,
    /nightly,1,0\r\n.*others.*\r\n\(no run\),1,0/,
  )
  const body = await json('/-/report?days=1')
  assert.equal(at(body, 'name'), NAME)
  assert.equal(at(body, 'outages', 'longest', 'id'), outageId(86_400_000 * 20 + 2000))
  assert.equal(at(body, 'outages', 'longest', 'endedAt'), null)
  assert.equal(at(body, 'saved'), null)
})

test('the number of spared requests is the same in the history, in the report and in its rows, even after a restart', async t => {
  const path = historyPath(t)
  const before = runProcess(path, 0)
  before.see('+ -')
  before.ask()
  before.close()
  const process = runProcess(path, 4000)
  // The cause of the outage is unknown before the first reading.
  process.ask()
  process.see('-')
  process.ask()
  process.see('xxx')
  process.ask()
  const { json } = routesOf(process)
  const spared = at(await json(`/-/outages/${outageId(2000)}`), 'spared')
  const report = await json('/-/report?days=1')
  assert.deepEqual([spared, at(report, 'attempts', 'spared')], [2, 2])
  assert.deepEqual(at(report, 'buckets', 23, 'spared'), 2)
  assert.equal(at(report, 'buckets', 23, 'longestOutageSeconds'), at(report, 'outages', 'longest', 'seconds'))
  process.close()
})
