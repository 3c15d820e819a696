import assert from 'node:assert/strict'
import { EventEmitter, once } from 'node:events'
import { type TestContext, test } from 'node:test'
import fastify, { type FastifyReply } from 'fastify'
import { ExchangeEvents } from '../../src/observability/exchange-events.js'
import { Exchange } from '../../src/proxy/exchange.js'
import { forwardThroughHttpProxy } from '../../src/proxy/http-proxy.js'
import { whenOver } from '../../src/server/connection.js'
import { viewFrom } from '../support/client-view.js'

/** Additional actions of a request, by the header `x-act`. */
type Acts = Readonly<Record<string, (reply: FastifyReply) => unknown>>

/**
 * Fastify with the route of focus-server. A request with the header `x-id` has an exchange with that id.
 *
 * @param acts run in hooks of the same route, where reply-from is available.
 */
async function setUp(t: TestContext, { before = {}, after = {} }: { before?: Acts; after?: Acts } = {}) {
  const app = fastify()
  t.after(() => app.close())
  const sent: string[] = []
  const errors: string[] = []
  const events = new ExchangeEvents()
  const target = { target: '/configure', clientPrefix: '', host: 'example.com', guarded: true }
  app.decorateRequest('exchange', null)
  app.addHook('onRequest', (request, reply, done) => {
    const id = request.headers['x-id']
    if (typeof id === 'string') {
      request.exchange = new Exchange({
        ...{ id, received: request.raw, view: viewFrom(request.ip), target, events },
        whenOver: over => whenOver(reply.raw, over),
      })
    }
    done()
  })
  app.addHook('preHandler', async ({ headers }, reply) => before[String(headers['x-act'])]?.(reply))
  app.addHook('onResponse', async ({ headers }, reply) => after[String(headers['x-act'])]?.(reply))
  app.addHook('onError', async (_request, _reply, { name }) => {
    errors.push(name)
  })
  // Nothing listens there, and nothing must be sent.
  forwardThroughHttpProxy(app, new URL('http://127.0.0.1:9'), (exchange, reply) => {
    sent.push(exchange.id)
    reply.hijack()
    reply.raw.end(exchange.id)
  })
  await app.ready()
  const ask = (headers: Readonly<Record<string, string>>) =>
    app.inject({ method: 'POST', url: '/', headers, payload: '{}' })
  return { app, ask, sent, errors }
}

test('each request is sent as its own exchange', async t => {
  const { app, ask, sent, errors } = await setUp(t)
  const ids = Array.from({ length: 50 }, (_, index) => `${index}`)
  const responses = await Promise.all(ids.map(id => ask({ 'x-id': id })))
  assert.deepEqual(
    responses.map(({ body }) => body),
    ids,
  )
  const methods = ['GET', 'HEAD', 'DELETE', 'PATCH', 'OPTIONS'] as const
  for (const method of methods) {
    await app.inject({ method, url: '/', headers: { 'x-id': method } })
  }
  assert.deepEqual([sent, errors], [[...ids, ...methods], []])
})

test('a request without an exchange is an error and is not sent', async t => {
  const { ask, sent, errors } = await setUp(t)
  const [before, lost, behind] = await Promise.all([ask({ 'x-id': 'a' }), ask({}), ask({ 'x-id': 'b' })])
  assert.deepEqual([before.statusCode, lost.statusCode, behind.statusCode], [200, 500, 200])
  assert.deepEqual([sent, errors], [['a', 'b'], ['ExchangeLostError']])
})

test('a direct call of reply-from has no exchange, even while another exchange is in progress', async t => {
  const { ask, sent, errors } = await setUp(t, { before: { astray: reply => reply.from('/') } })
  const responses = await Promise.all([
    ask({ 'x-id': 'a' }),
    ask({ 'x-act': 'astray' }),
    ask({ 'x-id': 'b' }),
    ask({ 'x-id': 'c', 'x-act': 'astray' }),
  ])
  assert.deepEqual(
    responses.map(({ statusCode }) => statusCode),
    [200, 500, 200, 500],
  )
  assert.deepEqual(
    [sent, errors],
    [
      ['a', 'b'],
      ['ExchangeLostError', 'ExchangeLostError'],
    ],
  )
})

test('an exchange is sent once, however often reply-from is called for it', async t => {
  const refusals: unknown[] = []
  const { app, sent } = await setUp(t, {
    after: {
      again: reply => {
        try {
          reply.from('/')
        } catch (error) {
          refusals.push(error instanceof Error && error.name)
        }
        app.server.emit('asked again')
      },
    },
  })
  const askedAgain = once(app.server, 'asked again')
  const { body } = await app.inject({ url: '/', headers: { 'x-id': 'a', 'x-act': 'again' } })
  await askedAgain
  assert.deepEqual([body, sent, refusals], ['a', ['a'], ['ExchangeLostError']])
})

test('an exchange that reply-from did not use is not used for the next request', async t => {
  const reached = new EventEmitter()
  const { ask, sent } = await setUp(t, {
    before: {
      idle: reply => {
        reply.from = () => {
          reached.emit('reached')
          return reply
        }
      },
      astray: reply => reply.from('/'),
    },
  })
  const isReached = once(reached, 'reached')
  // It gets no response.
  void ask({ 'x-id': 'a', 'x-act': 'idle' })
  await isReached
  const { statusCode } = await ask({ 'x-act': 'astray' })
  assert.deepEqual([statusCode, sent], [500, []])
})
