import { type IncomingMessage, METHODS } from 'node:http'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { Breaker } from '../breaker/breaker.js'
import { DECISION_ROUTE, type Routing } from '../proxy/classify.js'
import { type Asked, clientOf } from '../proxy/client.js'
import type { Refusals } from '../proxy/refusal.js'
import { sendError } from '../server/error-response.js'
import { FORWARDED_METHODS } from '../server/methods.js'

/** Dependencies of the route. */
export type DecisionOptions = {
  readonly routing: Routing
  readonly breaker: Breaker
  readonly refusals: Refusals
  /** The address of a request's client. */
  readonly addressOf: (request: FastifyRequest) => string
}

/** The headers in which gateways describe the request in question: Traefik and Caddy, then the nginx convention. */
const NAMED = [
  { methodHeader: 'x-forwarded-method', targetHeaders: ['x-forwarded-uri'] },
  { methodHeader: 'x-original-method', targetHeaders: ['x-original-uri', 'x-original-url'] },
] as const

/**
 * The status codes that a gateway may ask for: those of `guard.statusCode`, and 403, the only refusal that nginx's
 * `auth_request` does not treat as an error.
 */
const STATUSES = [400, 403, 409, 424, 429, 503] as const

/** A question of a gateway. */
type Question = {
  /** The requests that the question may refer to. It is refused if one of them is guarded. */
  readonly requests: readonly Asked[]
  /** The requested status code of the refusal. */
  readonly statusCode: number | undefined
}

/**
 * `/-/decision`, for the forward-auth of another gateway: 200 if the request in question is admitted, otherwise the
 * refusal to pass on. The body is not read.
 *
 * - `/-/decision`: headers describe the request; without them a guarded request is assumed.
 * - `/-/decision/<target>` and `/-/decision?uri=<target>`: for gateways that add a prefix to the target and keep the
 *   method.
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
  const summary = 'For the forward-auth of another gateway: 200, or the refusal to pass on. Any method.'
  const parameters = {
    status: { description: `The status code of the refusal, one of ${STATUSES.join(', ')}.`, example: '429' },
    uri: {
      description:
        'The target of the request in question, unencoded, up to the end of the URL. Replaces the headers.',
      example: '/configure',
    },
  }
  app.get('/-/decision', { schema: { summary, mediaTypes: [], parameters } }, byHeaders)
  app.route({ method: others, url: '/-/decision', handler: byHeaders })

  const byPath = (request: FastifyRequest, reply: FastifyReply) => {
    const target = routing.withoutBase(request.originalUrl).slice('/-/decision'.length)
    // The query comes from the client. It may contain anything, and must not request a status that a gateway treats as
    // a failure.
    const status = new URLSearchParams(/\?(.*)/s.exec(target)?.[1]).get('status')
    const statusCode = STATUSES.find(each => each < 500 && status === String(each))
    answer(request, reply, { requests: namedByTarget(request, target), statusCode }, options)
  }
  const schema = {
    summary:
      'Like /-/decision, for gateways that add a prefix to the target and keep the method. Any method.',
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
  // Without a described request, assume a guarded one.
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
 * The requests that headers describe. A gateway sets the headers that it knows. It passes the others on as its client
 * sent them, or appends its own value to a client's. Every value is therefore checked, and one guarded request is
 * enough for a refusal. A target without a method stands for every method.
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
 * The request that a target describes, with the method of the question itself. A gateway that always asks with GET
 * sends the method in a header. A client that forges this header can only get its own request refused.
 */
function namedByTarget({ raw, method }: FastifyRequest, url: string): readonly Asked[] {
  const others = NAMED.flatMap(({ methodHeader }) => valuesOf(raw, methodHeader))
  return [method, ...others].map(each => ({ method: each, url }))
}

function valuesOf({ headersDistinct }: IncomingMessage, header: string): readonly string[] {
  return headersDistinct[header]?.filter(value => value !== '') ?? []
}

/** Splits a string at the first match; the second part is undefined without a match. */
function splitAt(text: string, separator: RegExp): readonly [before: string, behind?: string] {
  const match = separator.exec(text)
  if (match === null) return [text]
  return [text.slice(0, match.index), text.slice(match.index + match[0].length)]
}
