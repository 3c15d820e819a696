import assert from 'node:assert/strict'
import { syncBuiltinESMExports } from 'node:module'
import { type TestContext, test } from 'node:test'
import { setImmediate as nextTurn } from 'node:timers/promises'
import fastify from 'fastify'
import { AdminToken } from '../../src/routes/admin-token.js'

const TOKEN = 'correct-horse-battery-staple'

test('at most a thousand wrong tokens are delayed at a time, from any number of addresses, and the right one never', async t => {
  const app = fastify()
  t.after(() => app.close())
  const wrong: string[] = []
  const adminToken = new AdminToken({
    token: () => TOKEN,
    onWrongToken: address => wrong.push(address),
    addressOf: ({ raw }) => raw.socket.remoteAddress ?? '',
  })
  app.get('/', async (request, reply) =>
    (await adminToken.allows(request, reply)) ? reply.code(204).send() : reply,
  )
  const send = async (token: string, remoteAddress: string) => {
    const headers = { authorization: `Bearer ${token}` }
    return (await app.inject({ url: '/', remoteAddress, headers })).statusCode
  }
  await app.ready()
  // The delays do not keep the process alive.
  const alive = setInterval(() => undefined, 1000)
  t.after(() => clearInterval(alive))
  const addresses = Array.from({ length: 2400 }, (_, index) => `203.0.${index >> 8}.${index & 255}`)
  const startedAt = performance.now()
  const answers = Promise.all(addresses.map(address => send('wrong-horse-battery-staple', address)))
  assert.equal(await send(TOKEN, '203.0.0.1'), 204)
  const statuses = await answers
  const delayed = statuses.filter(status => status === 401).length
  const most = 1000 * (1 + Math.floor((performance.now() - startedAt) / 1000))
  assert.ok(delayed >= 1 && delayed <= most, `${delayed} were delayed`)
  assert.equal(statuses.filter(status => status === 429).length, addresses.length - delayed)
  assert.deepEqual(wrong, addresses)
})

for (const [that, addressOf, most] of [
  ['twenty per client', () => '203.0.113.1', 20],
  ['a hundred for all clients that a gateway reports', (count: number) => `203.0.113.${count}`, 100],
] as const) {
  test(`the number of delayed responses to wrong tokens is limited: ${that}`, async t => {
    await holdDelays(t, { count: 250, most, addressOf, peerOf: () => '192.0.2.1' })
  })
}

test('the number of delayed responses to wrong tokens is limited: a thousand in total', async t => {
  const addressOf = (count: number) => `203.0.${count >> 8}.${count & 255}`
  await holdDelays(t, { count: 1500, most: 1000, addressOf, peerOf: addressOf })
})

/** Sends wrong tokens while no delay ends: `most` of the responses are delayed, and the others are sent at once. */
async function holdDelays(
  t: TestContext,
  options: {
    readonly count: number
    readonly most: number
    readonly addressOf: (count: number) => string
    readonly peerOf: (count: number) => string
  },
) {
  const app = fastify()
  t.after(() => app.close())
  let received = 0
  const adminToken = new AdminToken({
    token: () => TOKEN,
    onWrongToken: () => undefined,
    addressOf: () => options.addressOf(received++),
  })
  app.get('/', async (request, reply) =>
    (await adminToken.allows(request, reply)) ? reply.code(204).send() : reply,
  )
  await app.ready()
  t.mock.timers.enable({ apis: ['setTimeout'] })
  // The named imports of the tested file follow.
  syncBuiltinESMExports()
  t.after(() => {
    t.mock.timers.reset()
    syncBuiltinESMExports()
  })
  const statuses: number[] = []
  const headers = { authorization: 'Bearer wrong-horse-battery-staple' }
  const all = Array.from({ length: options.count }, async (_, index) => {
    const { statusCode } = await app.inject({ url: '/', remoteAddress: options.peerOf(index), headers })
    statuses.push(statusCode)
  })
  while (received < options.count) await nextTurn()
  for (let turn = 0; turn < 200; turn += 1) await nextTurn()
  assert.deepEqual(statuses, Array(options.count - options.most).fill(429))
  t.mock.timers.tick(1000)
  await Promise.all(all)
  assert.deepEqual(statuses.slice(options.count - options.most), Array(options.most).fill(401))
}
