import assert from 'node:assert/strict'
import { test } from 'node:test'
import fastify from 'fastify'
import { AdminToken } from '../../src/routes/admin-token.js'

const TOKEN = 'correct-horse-battery-staple'

test('a thousand wrong tokens are delayed at a time, from however many addresses, and the right one is not', async t => {
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
  // The delays themselves keep no process alive.
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
