import type { IncomingMessage } from 'node:http'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { type Body, readConfigure, readTimeRange, type TimeRange } from './configure-body.js'
import type { Jobs } from './jobs.js'
import { bodyText, pathOf, sendBytes, sendJson } from './received.js'
import * as samples from './samples.js'
import type { Fiber } from './scenario.js'

/** The state behind the endpoints. */
export interface World {
  readonly fiber: () => Fiber
  readonly jobs: Jobs
  readonly recordings: readonly samples.Recording[]
  readonly historicWithoutFiber: boolean
  readonly log: (line: string) => void
  /** Called for each configure request that was rejected because the fiber is missing. */
  readonly rejectedForFiber: () => void
  /** Waits as long as the real server would take, or not at all. */
  readonly takeTime: (latencyMs: (draw: number) => number) => Promise<void>
}

const json = 'application/json'
const html = 'text/html; charset=utf-8'
const atOnce = () => 0

/** Adds focus-server's endpoints, and FastAPI's responses to all other requests. */
export function addEndpoints(app: FastifyInstance, world: World): void {
  const { other, liveMetadata } = samples.latencyMs
  const endpoints: { method: 'GET' | 'POST'; path: string }[] = []
  const add = (
    method: 'GET' | 'POST',
    path: string,
    latencyMs: (draw: number) => number,
    answer: (request: FastifyRequest, reply: FastifyReply) => FastifyReply | Promise<FastifyReply>,
  ) => {
    endpoints.push({ method, path })
    app.route({
      method,
      url: path,
      handler: async (request, reply) => {
        await world.takeTime(latencyMs)
        return answer(request, reply)
      },
    })
  }
  /** Running jobs that `GET /metadata` does not return yet. */
  const appearing = new Set<string>()

  add('GET', '/ack', other, (_request, reply) => reply.code(200).send())
  add('GET', '/channels', other, (_request, reply) => sendText(reply, json, samples.channels))
  add('GET', '/live_metadata', liveMetadata, (_request, reply) =>
    sendText(reply, json, samples.liveMetadata[world.fiber()]),
  )
  add('POST', '/configure', atOnce, (request, reply) => configure(world, appearing, request, reply))
  add('GET', '/metadata/:job_id', other, (request, reply) => {
    const id = decodeURIComponent(pathOf(request).slice('/metadata/'.length))
    const job = appearing.has(id) ? undefined : world.jobs.find(id)
    if (job === undefined) return sendJson(reply, 404, { error: 'Invalid job_id' })
    // The real response was not captured. Returning the response of the configure request is a guess.
    return sendText(reply, json, job.response)
  })
  add('POST', '/recordings_in_time_range', other, (request, reply) => {
    const range = validBody(readTimeRange(bodyText(request), request.headers['content-type']), reply)
    return range === null ? reply : sendJson(reply, 200, recordingsIn(world, range))
  })
  add('GET', '/get_recordings_timeline', other, (_request, reply) =>
    sendText(reply, html, samples.recordingsTimeline(world.recordings)),
  )
  add('GET', '/docs', other, (_request, reply) => sendText(reply, html, samples.docs))
  add('GET', '/openapi.json', other, (_request, reply) => sendText(reply, json, samples.openApi(endpoints)))

  const patterns = endpoints.map(toPattern)
  app.setNotFoundHandler((request, reply) => notFound(patterns, request, reply))
}

async function configure(
  world: World,
  appearing: Set<string>,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<FastifyReply> {
  const body = validBody(readConfigure(bodyText(request), request.headers['content-type']), reply)
  if (body === null) return reply
  const needsFiber = body.kind === 'live' || !world.historicWithoutFiber
  if (needsFiber && world.fiber() !== 'present') {
    world.rejectedForFiber()
    const client = `${request.socket.remoteAddress}:${request.socket.remotePort}`
    for (const line of samples.missingFiberLog(client)) world.log(line)
    return sendJson(reply, 503, { detail: samples.missingFiber })
  }
  if (body.range !== null && recordingsIn(world, body.range).length === 0) {
    await world.takeTime(samples.latencyMs.configure)
    return sendJson(reply, 404, { error: 'No recording found in given time range' })
  }
  // Take the slot before the work starts, so that no two requests share one.
  const job = world.jobs.start(body)
  if (job === null) return sendJson(reply, 503, { detail: 'Cannot start job: no GPU resources left' })
  await world.takeTime(samples.latencyMs.configure)
  appearing.add(job.id)
  void world.takeTime(samples.latencyMs.jobToAppear).then(() => appearing.delete(job.id))
  return sendText(reply, json, job.response)
}

function recordingsIn(world: World, { startSeconds, endSeconds }: TimeRange): readonly samples.Recording[] {
  return world.recordings.filter(([start, end]) => start <= endSeconds && end >= startSeconds)
}

/**
 * The path as Starlette would match it, encoded again for Fastify's router: without scheme and authority, decoded once
 * and leniently, and without a trailing newline, which Starlette's `$` ignores. `.` and `//` are kept.
 */
export function pathOfStarlette(request: IncomingMessage): string {
  const [, path = '', query = ''] = /^(?:[a-z]+:\/\/[^/?#]*)?([^?#]*)([^#]*)/i.exec(request.url ?? '') ?? []
  const bytes = path.replace(/%([0-9a-f]{2})/gi, (_, hex) => String.fromCharCode(Number.parseInt(hex, 16)))
  const decoded = Buffer.from(bytes, 'latin1').toString().replace(/\n$/, '')
  return encodeURI(decoded).replaceAll('?', '%3F').replaceAll('#', '%23') + query
}

interface Pattern {
  readonly method: string
  readonly path: RegExp
}

function toPattern({ method, path }: { readonly method: string; readonly path: string }): Pattern {
  return { method, path: new RegExp(`^${path.replace(/:\w+/g, '[^/]+')}$`) }
}

/** FastAPI's response to a request without an endpoint: wrong method, trailing slash, or unknown path. */
function notFound(endpoints: readonly Pattern[], request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const path = pathOf(request)
  const here = endpoints.find(endpoint => endpoint.path.test(path))
  if (here !== undefined) {
    return sendJson(reply.header('allow', here.method), 405, { detail: 'Method Not Allowed' })
  }
  const withoutSlash = path.replace(/\/+$/, '')
  if (path !== withoutSlash && endpoints.some(endpoint => endpoint.path.test(withoutSlash))) {
    // The redirect contains the address that the client used, so it can lead clients around a proxy.
    const query = request.url.slice(path.length)
    return reply.code(307).header('location', `http://${request.headers.host}${withoutSlash}${query}`).send()
  }
  return sendJson(reply, 404, { detail: 'Not Found' })
}

/** The value of a valid body. Otherwise null; the response has then been sent. */
function validBody<T>(body: Body<T>, reply: FastifyReply): T | null {
  if (body.kind === 'valid') return body.value
  if (body.kind === 'unusable') sendJson(reply, 500, { error: 'Error parsing configuration' })
  else sendJson(reply, 422, { detail: body.detail })
  return null
}

function sendText(reply: FastifyReply, contentType: string, text: string): FastifyReply {
  return sendBytes(reply, 200, contentType, text)
}
