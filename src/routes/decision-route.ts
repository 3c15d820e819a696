import { type IncomingMessage, METHODS } from 'node:http'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { Breaker } from '../breaker/breaker.js'
import { DECISION_ROUTE, type Routing } from '../proxy/classify.js'
import { type Asked, clientOf } from '../proxy/client.js'
import type { Refusals } from '../proxy/refusal.js'
import { sendError } from '../server/error-response.js'
import { FORWARDED_METHODS } from '../server/methods.js'

/** What deciding for other gateways needs. */
export type DecisionOptions = {
  readonly routing: Routing
  readonly breaker: Breaker
  readonly refusals: Refusals
  /** The address that a request comes from. */
  readonly addressOf: (request: FastifyRequest) => string
}

/** Under which names gateways name the request that they ask about: Traefik and Caddy, then nginx by custom. */
const NAMED = [
  { methodHeader: 'x-forwarded-method', targetHeaders: ['x-forwarded-uri'] },
  { methodHeader: 'x-original-method', targetHeaders: ['x-original-uri', 'x-original-url'] },
] as const

/**
 * The statuses that a gateway may ask for: those of `guard.statusCode`, and 403, the only one of a refusal that nginx's
 * `auth_request` does not take for an error.
 */
const STATUSES = [400, 403, 409, 424, 429, 503] as const

/** What a gateway asks. */
type Question = {
  /** The requests that its request may stand for; it is refused if one of them is guarded. */
  readonly requests: readonly Asked[]
  /** The status of the refusal, if it asks for one. */
  readonly statusCode: number | undefined
}

/**
 * `/-/decision`, for the forward-auth of another gateway: 200 when the request that it asks about may pass, else the
 * refusal to hand on. Nothing of a body is read.
 *
 * - `/-/decision`: headers name the request; without them a guarded one is meant.
 * - `/-/decision/<target>`, and `/-/decision?uri=<target>`: for gateways that put a prefix before the target and keep
 *   the method.
 */
export function decision(app: FastifyInstance, options: DecisionOptions): void {
  const { routing } = options
  const others = FORWARDED_METHODS.filter(method => method !== 'GET' && method !== 'HEAD')

  const byHeaders = (request: FastifyRequest, reply: FastifyReply) => {
    const query = /\?(.*)/s.exec(routing.withoutBase(request.originalUrl))?.[1] ?? ''
    const [own = '', target] = splitAt(query, /(?:^|&)uri=/)
    const given = new URLSearchParams(own).getAll('status')
    const statusCode = STATUSES.find(status => given[0] === String(status))
    if (given.length > 1 || (given.length === 1 && statusCode === undefined)) {
      const message = `status: expected one of ${STATUSES.join(', ')}; given ${given.join(', ').slice(0, 64)}.`
      return sendError(reply, 400, 'Bad Request', message)
    }
    const requests =
      target === undefined || target === '' ? namedByHeaders(request) : namedByTarget(request, target)
    answer(request, reply, { requests, statusCode }, options)
  }
  const summary = "For another gateway's forward-auth: 200, or the refusal to hand on. Any method."
  const parameters = {
    status: { description: `The status of the refusal, one of ${STATUSES.join(', ')}.`, example: '429' },
    uri: {
      description: 'The target that is asked about, as it is, to the end of the URL; in place of headers.',
      example: '/configure',
    },
  }
  app.get('/-/decision', { schema: { summary, mediaTypes: [], parameters } }, byHeaders)
  app.route({ method: others, url: '/-/decision', handler: byHeaders })

  const byPath = (request: FastifyRequest, reply: FastifyReply) => {
    const target = routing.withoutBase(request.originalUrl).slice('/-/decision'.length)
    // The query is the client's. So it may be of any kind, and can ask for nothing that a gateway takes for a failure.
    const status = new URLSearchParams(/\?(.*)/s.exec(target)?.[1]).get('status')
    const statusCode = STATUSES.find(each => each < 500 && status === String(each))
    answer(request, reply, { requests: namedByTarget(request, target), statusCode }, options)
  }
  const schema = {
    summary: 'The same for gateways that put a prefix before the target and keep the method. Any method.',
    mediaTypes: [],
    describedAs: '/-/decision/:target',
  }
  app.get(DECISION_ROUTE, { schema }, byPath)
  app.route({ method: others, url: DECISION_ROUTE, handler: byPath })
}

function answer(
  request: FastifyRequest,
  reply: FastifyReply,
  { requests, statusCode }: Question,
  { routing, breaker, refusals, addressOf }: DecisionOptions,
): void {
  const { raw } = request
  const decided = breaker.decide()
  // Without a request named, a guarded one is meant.
  const guarded =
    requests.length === 0 ? raw : requests.find(({ method = '', url = '' }) => routing.guards(method, url))
  reply.header('cache-control', 'no-store')
  if (decided.admitted || guarded === undefined) {
    reply.send()
    return
  }
  breaker.refused(decided, clientOf(addressOf(request), raw, guarded))
  if (breaker.enforces) {
    const clientPrefix = routing.clientPrefixOf(guarded.url ?? '')
    refusals.send(request, reply, decided, { clientPrefix, statusCode })
  } else reply.header('focus-breaker', 'would-refuse').send()
}

/**
 * The requests that headers name. A gateway sets the headers that it knows, and passes the others on as its client sent
 * them, or adds its own value to a client's. So each value counts, and one that is guarded is enough. A target without its
 * method is one of any method.
 */
function namedByHeaders({ raw }: FastifyRequest): readonly Asked[] {
  return NAMED.flatMap(({ methodHeader, targetHeaders }) => {
    const given = valuesOf(raw, methodHeader)
    const methods = given.length > 0 ? given : METHODS
    const targets = targetHeaders.flatMap(header => valuesOf(raw, header))
    return targets.flatMap(url => methods.map(method => ({ method, url })))
  })
}

/**
 * The request that a target names, by the method of the question itself. A gateway that asks by GET names the method in a
 * header; one that a client has invented can only make its own request a guarded one.
 */
function namedByTarget({ raw, method }: FastifyRequest, url: string): readonly Asked[] {
  const others = NAMED.flatMap(({ methodHeader }) => valuesOf(raw, methodHeader))
  return [method, ...others].map(each => ({ method: each, url }))
}

function valuesOf({ headersDistinct }: IncomingMessage, header: string): readonly string[] {
  return headersDistinct[header]?.filter(value => value !== '') ?? []
}

/** What stands before and behind the first match; the second is undefined where nothing matches. */
function splitAt(text: string, separator: RegExp): readonly [before: string, behind?: string] {
  const match = separator.exec(text)
  if (match === null) return [text]
  return [text.slice(0, match.index), text.slice(match.index + match[0].length)]
}
