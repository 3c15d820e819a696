import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { groups, type Observed, type Row, STALL_MS } from '../support/conformance-rows.js'
import {
  type Play,
  type Seen,
  startSockets,
  startUvicorn,
  TAG,
  type Upstream,
} from '../support/conformance-upstreams.js'
import { converse, type Field, type Message, statusOf } from '../support/conformance-wire.js'
import { repositoryRoot, requireOrSkip, startProgram, startProxy } from '../support/harness.js'
import { proxyTo } from '../support/raw.js'

const PAGE = join(repositoryRoot, 'docs/explanation/conformance.md')

/** How much a proxy may grow while 100 MB are available to read and one side does not read. */
const MEMORY_BOUND_BYTES = 50 * 1024 * 1024

const OK: Play = {
  status: 200,
  fields: ['content-type: text/plain', 'content-length: 2'],
  body: ['ok'],
}

/** The outcome of one row, as the page shows it. */
type Outcome = { readonly direct: string; readonly ours: string; readonly plain: string }

test('what happens to an exchange, and what the page says about it', async t => {
  if (!requireOrSkip(t, 'uvicorn')) return
  const bench = await startBench(t)
  const outcomes = new Map<Row, Outcome>()
  for (const [title, rows] of groups) {
    const slow = new Map(rows.flatMap(row => (row.slow ? [[row, bench.run(row)] as const] : [])))
    // A failure is reported by its row below.
    await Promise.allSettled(slow.values())
    for (const row of rows) {
      await t.test(`${title}: ${row.name}`, async () => {
        const outcome = await (slow.get(row) ?? bench.run(row))
        outcomes.set(row, outcome)
        assert.equal(outcome.ours, row.ours ?? 'same')
      })
    }
  }
  await t.test('docs/explanation/conformance.md shows the measured results', () => {
    const page = pageOf(outcomes)
    if (process.env.UPDATE_CONFORMANCE === '1') writeFileSync(PAGE, page)
    else assert.equal(readFileSync(PAGE, 'utf8'), page, 'stale: UPDATE_CONFORMANCE=1 updates it')
  })
})

type Way = { readonly port: number; readonly pid?: number }

/** Whether the program still responds; this request is not forwarded. */
async function isAlive({ port }: Way): Promise<boolean> {
  const withoutHost = 'GET /any HTTP/1.1\r\nConnection: close\r\n\r\n'
  return (await converse(port, [withoutHost])).answers.length > 0
}

/** Both upstreams, each with plain @fastify/http-proxy and focus-breaker in front. */
async function startBench(t: TestContext) {
  const upstreams = { uvicorn: await startUvicorn(t), sockets: await startSockets(t) }
  const plain = {
    uvicorn: await startPlain(t, upstreams.uvicorn.port),
    sockets: await startPlain(t, upstreams.sockets.port),
  }
  const ours = new Map<string, Promise<Way>>()
  const oursFor = (kind: keyof typeof upstreams, row: Row): Promise<Way> => {
    const key = JSON.stringify([kind, row.options, row.memory])
    const running = ours.get(key) ?? startOurs(t, upstreams[kind].port, row)
    ours.set(key, running)
    return running
  }
  const runWith = async (kind: keyof typeof upstreams, row: Row): Promise<Outcome> => {
    const upstream = upstreams[kind]
    const ways = [{ port: upstream.port }, await oursFor(kind, row), plain[kind]] as const
    const early = row.slow ? await Promise.all(ways.map(way => observe(upstream, way, row))) : undefined
    const direct = early?.[0] ?? (await observe(upstream, ways[0], row))
    const judge = async (way: Way, already: Observed | undefined) => {
      const { observed, growth } = await measured(
        way,
        row,
        async () => already ?? (await observe(upstream, way, row)),
      )
      const outcome = row.extract?.(observed) ?? compare(direct, observed)
      if (way === plain[kind] && observed.answers.length === 0 && !(await isAlive(way))) {
        plain[kind] = await startPlain(t, upstream.port)
        return `${outcome}: its process ends`
      }
      if (growth === undefined) return outcome
      return `${outcome}, memory ${growth < MEMORY_BOUND_BYTES ? 'bounded' : 'grows'}`
    }
    return {
      direct: row.extract?.(direct) ?? describe(direct),
      ours: await judge(ways[1], early?.[1]),
      plain: row.plainVaries ? 'varies' : await judge(ways[2], early?.[2]),
    }
  }
  return {
    run: async (row: Row): Promise<Outcome> => {
      if (row.only !== undefined) return await runWith(row.only, row)
      const [outcome, other] = await Promise.all([runWith('uvicorn', row), runWith('sockets', row)])
      assert.equal(other.ours, outcome.ours, 'the raw-socket upstream gave another result')
      return outcome
    },
  }
}

async function startOurs(t: TestContext, port: number, row: Row): Promise<Way> {
  const upstream = `http://127.0.0.1:${port}`
  if (row.memory === undefined) return { port: await proxyTo(t, upstream, row.options) }
  const { url, pid } = await startProxy(t, { upstream, env: { FOCUS_BREAKER_PROBE_PERIOD_MS: '60000' } })
  return { port: Number(new URL(url).port), pid }
}

/** The plugin with its defaults, in a separate process. */
async function startPlain(t: TestContext, port: number): Promise<Way> {
  const program = `
    import fastify from '${import.meta.resolve('fastify')}'
    import httpProxy from '${import.meta.resolve('@fastify/http-proxy')}'
    const app = fastify()
    app.register(httpProxy, { upstream: 'http://127.0.0.1:${port}' })
    await app.listen({ host: '127.0.0.1', port: 0 })
    console.log(app.server.address().port)
    process.on('SIGTERM', () => process.exit(0))`
  const { ready, pid } = await startProgram(t, {
    command: process.execPath,
    args: ['--input-type=module', '-e', program],
    readyWhen: line => (/^\d+$/.test(line) ? Number(line) : undefined),
  })
  return { port: ready, pid }
}

let tags = 0

async function observe(upstream: Upstream, way: Way, row: Row): Promise<Observed> {
  // Without a header the length is that of `ok`.
  const play: Play = { ...OK, ...(row.play?.body !== undefined && { fields: [] }), ...row.play }
  if (!row.slow) {
    await upstream.play(play)
    const conversation = await converse(way.port, row.send)
    return { ...conversation, seen: await settled(upstream) }
  }
  tags += 1
  const tag = String(tags)
  await upstream.play(play, tag)
  const send = row.send.map((step, index) =>
    index === 0 && typeof step === 'string' ? step.replace('\r\n\r\n', `\r\n${TAG}: ${tag}\r\n\r\n`) : step,
  )
  const conversation = await converse(way.port, send)
  return { ...conversation, seen: await settled(upstream, tag) }
}

/** What arrived, once nothing is in flight any more; waits only a short time. */
async function settled(upstream: Upstream, tag?: string): Promise<readonly Seen[]> {
  for (let tries = 0; ; tries += 1) {
    const all = await upstream.seen()
    const tagged = all.filter(({ fields }) => fields.find(([name]) => name === TAG)?.[1] === tag)
    const seen = tagged.map(one => ({ ...one, fields: one.fields.filter(([name]) => name !== TAG) }))
    if (tries === 8 || seen.every(({ whole, tunnel }) => whole && (tunnel === '' || tries > 1))) return seen
    await delay(25)
  }
}

/** The observation, and how much the process in between has grown while one side did not read. */
async function measured(way: Way, row: Row, work: () => Promise<Observed>) {
  if (row.memory === undefined || way.pid === undefined) return { observed: await work() }
  const before = residentBytes(way.pid)
  let most = before
  const { pid } = way
  const timer = setInterval(() => {
    most = Math.max(most, residentBytes(pid))
  }, 20)
  // Growth after that is garbage that has not been collected yet.
  const over = setTimeout(() => clearInterval(timer), STALL_MS)
  try {
    const observed = await work()
    return { observed, growth: most - before }
  } finally {
    clearInterval(timer)
    clearTimeout(over)
  }
}

function residentBytes(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  return Number(/^VmRSS:\s*(\d+) kB/m.exec(status)?.[1]) * 1024
}

function describe({ answers, interim, seen, closed }: Observed): string {
  const statuses = [...interim, ...answers].map(statusOf).join(', ').replaceAll('NaN', 'not HTTP')
  const broken = answers.some(({ whole }) => !whole) ? ', cut off' : ''
  if (statuses === '') return closed ? 'closed without a response' : 'no response'
  return (seen.length === 0 ? `refused ${statuses}` : statuses) + broken
}

/**
 * How an exchange differs from the one without a proxy; `same` if only that differs which HTTP lets a gateway change:
 * headers of the connection, the host, framing, `Via`, `X-Forwarded-*`.
 */
function compare(direct: Observed, through: Observed): string {
  const { answers, seen } = through
  if (answers.length === 0 || (seen.length === 0 && direct.seen.length + answers.length > 0)) {
    return describe(through)
  }
  const more =
    seen.length <= direct.seen.length
      ? undefined
      : direct.seen.length === 0
        ? 'forwarded'
        : `sent ${seen.length} times`
  const wanted = direct.answers.map(statusOf).join(', ')
  const came = answers.map(statusOf).join(', ')
  if (wanted !== came) return [came, more].filter(text => text !== undefined).join(', ')
  const changes = [
    more,
    seen.length < direct.seen.length ? `${seen.length} of ${direct.seen.length} sent` : undefined,
    ...direct.seen.flatMap((one, index) => changesOfRequest(one, seen[index])),
    ...changesOfInterim(direct.interim, through.interim),
    ...direct.answers.flatMap((one, index) => changesOfAnswer(one, answers[index])),
    direct.tunnel === through.tunnel ? undefined : 'messages',
    direct.closed && !through.closed ? 'left open' : undefined,
  ]
  const found = [...new Set(changes.filter(change => change !== undefined))]
  return found.length === 0 ? 'same' : `changed: ${found.join('; ')}`
}

function changesOfRequest(direct: Seen, through: Seen | undefined): readonly (string | undefined)[] {
  if (through === undefined) return []
  return [
    direct.method === through.method ? undefined : 'method',
    direct.target === through.target ? undefined : 'target',
    ...changesOfFields('request', direct.fields, through.fields, OF_REQUEST),
    direct.sha256 === through.sha256 && direct.whole === through.whole ? undefined : 'request body',
    String(direct.trailers) === String(through.trailers) ? undefined : 'request trailers',
    direct.tunnel === through.tunnel ? undefined : 'messages',
  ]
}

function changesOfAnswer(direct: Message, through: Message | undefined): readonly (string | undefined)[] {
  if (through === undefined) return []
  // A missing reason may be filled in.
  const reason = ({ line }: Message) => line.slice('HTTP/1.1 200 '.length)
  return [
    ['', reason(through)].includes(reason(direct)) ? undefined : 'reason',
    ...changesOfFields('response', direct.fields, through.fields, OF_ANSWER),
    direct.whole && !through.whole ? 'cut off' : undefined,
    !direct.whole && through.whole ? 'looks complete' : undefined,
    direct.whole && through.whole && direct.sha256 !== through.sha256 ? 'response body' : undefined,
    String(direct.trailers) === String(through.trailers) ? undefined : 'response trailers',
  ]
}

function changesOfInterim(direct: readonly Message[], through: readonly Message[]): readonly string[] {
  if (direct.map(statusOf).join() !== through.map(statusOf).join()) return ['1xx']
  return direct.flatMap((one, index) =>
    changesOfFields('1xx', one.fields, through[index]?.fields ?? [], OF_ANSWER),
  )
}

/** Headers that belong to one connection, or that a gateway may set. */
const OF_CONNECTION = ['connection', 'transfer-encoding', 'via']
const OF_REQUEST = new Set([
  ...OF_CONNECTION,
  ...['host', 'x-forwarded-for', 'x-forwarded-proto', 'x-forwarded-host', 'forwarded', 'x-real-ip', 'expect'],
])
const OF_ANSWER = new Set([...OF_CONNECTION, 'date'])
/** Headers that must not be forwarded beyond one connection. */
const HOP_BY_HOP = ['keep-alive', 'proxy-connection', 'te', 'upgrade', 'http2-settings']
/** Headers that may be removed or forwarded. */
const EITHER_WAY = ['trailer', 'proxy-authorization', 'proxy-authenticate']

function changesOfFields(
  where: 'request' | 'response' | '1xx',
  direct: readonly Field[],
  through: readonly Field[],
  free: ReadonlySet<string>,
): readonly string[] {
  const named = valuesOf(direct, 'connection').flatMap(value => value.toLowerCase().split(/[ ,]+/))
  const isSwitch = named.includes('upgrade') && valuesOf(through, 'connection').some(v => /upgrade/i.test(v))
  const hops = new Set([...HOP_BY_HOP, ...named])
  if (isSwitch) hops.delete('upgrade')
  const names = new Set([...direct, ...through].map(([name]) => name))
  return [...names].sort().flatMap(name => {
    if (free.has(name)) return []
    const before = valuesOf(direct, name)
    const after = valuesOf(through, name)
    const isEqual = JSON.stringify(before) === JSON.stringify(after)
    if (hops.has(name)) return isEqual && before.length > 0 ? [`${where} with ${name}`] : []
    // A response without a body needs no length, and a chunked one may get one on its way.
    const isFramed = before[0] !== undefined || direct.some(([other]) => other === 'transfer-encoding')
    if (name === 'content-length' && (isFramed ? before.length === 0 : after[0] === '0')) return []
    // A header between a proxy and its own client.
    if (isEqual || (EITHER_WAY.includes(name) && after.length === 0)) return []
    return [`${where} ${before.length === 0 ? 'gained' : after.length === 0 ? 'lost' : 'changed'} ${name}`]
  })
}

function valuesOf(fields: readonly Field[], name: string): readonly string[] {
  return fields.filter(field => field[0] === name).map(field => field[1])
}

function pageOf(outcomes: ReadonlyMap<Row, Outcome>): string {
  const lines = [
    '# Conformance: what the proxy changes in an exchange',
    '',
    'Generated by `UPDATE_CONFORMANCE=1 node --test .build/test/interop/conformance.test.js`; do not edit it by hand. Each row',
    'is an exchange of `test/support/conformance-rows.ts`, sent byte for byte over a plain socket.',
    '',
    '- **direct**: the statuses without a proxy, from real uvicorn. Rows marked *(socket)* use an upstream of plain sockets',
    '  instead, because uvicorn does not send such a response. Every other row was sent to both upstreams, with the same',
    '  outcome through focus-breaker.',
    '- **focus-breaker** and **plain** (@fastify/http-proxy with only `upstream` set): `same` if upstream and client receive',
    '  what they receive without a proxy, except for what HTTP requires or allows a gateway to change (hop-by-hop headers,',
    '  `Host`, framing, `Via`, `X-Forwarded-*`, which have their own rows); `refused` if nothing reached the upstream; a status',
    '  only, if it is a different one; otherwise `changed`, with what differs.',
    '- Where a row checks a single thing, all three columns show it.',
    '',
  ]
  const cell = (text: string) => text.replaceAll('|', '\\|')
  for (const [title, rows] of groups) {
    lines.push(`## ${title}`, '', '| | direct | focus-breaker | plain |', '| --- | --- | --- | --- |')
    for (const row of rows) {
      const { direct, ours, plain } = outcomes.get(row) ?? { direct: '?', ours: '?', plain: '?' }
      const socket = row.only === 'sockets' ? '*(socket)* ' : ''
      lines.push(`| ${[row.name, socket + direct, ours, plain].map(cell).join(' | ')} |`)
    }
    const reasons = rows.flatMap(({ name, why }) => (why === undefined ? [] : [`- ${name}: ${why}`]))
    lines.push('', ...(reasons.length === 0 ? [] : [...reasons, '']))
  }
  const limits = groups.flatMap(([title, rows]) =>
    rows.flatMap(({ name, limit }) => (limit === undefined ? [] : [`- ${title}: ${name}: ${limit}`])),
  )
  lines.push('## Remaining limits', '', ...limits)
  return `${lines.join('\n').trimEnd()}\n`
}
