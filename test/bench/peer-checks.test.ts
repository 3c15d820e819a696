import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, request as httpRequest, type IncomingMessage, type ServerResponse } from 'node:http'
import { type TestContext, test } from 'node:test'
import type { Peer } from '../../bench/children.js'
import { checkForwarding, checkRefusal, checkSameShape } from '../../bench/peer-checks.js'
import { CONFIGURE_BODY } from '../../bench/requests.js'

type Listener = (request: IncomingMessage, response: ServerResponse) => void

test('a proxy that forwards everything unchanged is measured', async t => {
  const upstream = await start(t, 'upstream', focusServer)
  const proxy = await start(t, 'proxy', forwardingTo(upstream))
  await checkForwarding(proxy, upstream.server)
})

test('a peer that does not forward is not measured', async t => {
  const upstream = await start(t, 'upstream', focusServer)
  const cache = await start(t, 'cache', (request, response) =>
    request.url === '/configure'
      ? response.setHeader('content-type', 'application/json').end('{"job_id":1}')
      : forwardingTo(upstream)(request, response),
  )
  await assert.rejects(
    checkForwarding(cache, upstream.server),
    /cache .*POST \/configure.* did not see the body/,
  )
})

test('a peer with another status is not measured', async t => {
  const upstream = await start(t, 'upstream', focusServer)
  const broken = await start(t, 'broken', (_request, response) => response.writeHead(502).end())
  await assert.rejects(
    checkForwarding(broken, upstream.server),
    /broken .*GET \/channels.*: expected 200.*got 502/,
  )
})

test('a peer that changes a body of the same length is not measured', async t => {
  const upstream = await start(t, 'upstream', focusServer)
  const changing = await start(t, 'changing', (_request, response) =>
    response.setHeader('content-type', 'application/json').end('{"highest_channel":9}'),
  )
  await assert.rejects(checkForwarding(changing, upstream.server), /changing .*the body differs/)
})

test('a peer that cuts a large body is not measured', async t => {
  const upstream = await start(t, 'upstream', focusServer)
  const cutting = await start(t, 'cutting', (request, response) =>
    request.url === '/bench/echo' ? response.end('short') : forwardingTo(upstream)(request, response),
  )
  await assert.rejects(checkForwarding(cutting, upstream.server), /cutting: 2 MB did not come back/)
})

test('a peer that does not refuse is not measured', async t => {
  const admitting = await start(t, 'admitting', focusServer)
  await assert.rejects(checkRefusal(admitting), /admitting .*expected a refusal, got 200/)
})

test('a peer whose refusal has a shorter header is not measured', async t => {
  const subject = await start(t, 'subject', (_request, response) =>
    response.writeHead(503, { 'retry-after': '10' }).end(),
  )
  const same = await start(t, 'same', (_request, response) =>
    response.writeHead(503, { 'Retry-After': '25' }).end(),
  )
  const shorter = await start(t, 'shorter', (_request, response) =>
    response.writeHead(503, { 'retry-after': '5' }).end(),
  )
  await checkSameShape(same, subject)
  await assert.rejects(
    checkSameShape(shorter, subject),
    /shorter .*expected[\s\S]*retry-after:2[\s\S]*retry-after:1/,
  )
})

function focusServer(request: IncomingMessage, response: ServerResponse): void {
  const chunks: Buffer[] = []
  request.on('data', chunk => chunks.push(chunk))
  request.on('end', () => {
    const body = Buffer.concat(chunks)
    response.setHeader('content-type', 'application/json')
    if (request.url === '/channels') response.end('{"highest_channel":1}')
    else if (request.url === '/bench/echo') response.end(body)
    else if (body.toString() === CONFIGURE_BODY) response.end('{"job_id":1}')
    else response.writeHead(400).end()
  })
}

function forwardingTo(upstream: Peer): Listener {
  return (request, response) => {
    const { method, url, headers } = request
    request.pipe(
      httpRequest(`${upstream.server.url}${url}`, { method, headers, agent: false }, forwarded => {
        response.writeHead(forwarded.statusCode ?? 0, forwarded.headers)
        forwarded.pipe(response)
      }),
    )
  }
}

async function start(t: TestContext, name: string, listener: Listener): Promise<Peer> {
  const server = createServer(listener)
  t.after(() => {
    server.close()
    server.closeAllConnections()
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  assert.ok(typeof address === 'object' && address !== null)
  return { name, server: { url: `http://127.0.0.1:${address.port}`, pid: process.pid } }
}
