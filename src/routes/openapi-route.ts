import type { FastifyInstance, FastifySchema } from 'fastify'
import Type from 'typebox'
import { ErrorBody, ProblemBody, RefusalBody } from './schemas.js'

declare module 'fastify' {
  interface FastifySchema {
    /** One sentence about the route, for `/-/openapi.json`. */
    readonly summary?: string
    /** The media types of its responses, if they are not only JSON. An empty list means an empty response. */
    readonly mediaTypes?: readonly string[]
    /**
     * Schema of the JSON request body. For documentation only: the route validates the body itself, with its own
     * messages.
     */
    readonly takes?: Type.TSchema
    /** Its query parameters. */
    readonly parameters?: Readonly<Record<string, { readonly description: string; readonly example: string }>>
    readonly needsToken?: boolean
    /** The path to document, if it differs from the registered one. A segment `:name` is a parameter. */
    readonly describedAs?: string
  }
}

const JSON_TYPE = 'application/json'

/**
 * `GET /-/openapi.json`: the routes under `/-/` that are added after this call, as OpenAPI 3.1. It is generated from
 * the response schemas (OpenAPI 3.1 schemas are JSON Schema).
 */
export function openapi(app: FastifyInstance, version: string): void {
  const paths: Record<string, Record<string, object>> = {}
  app.addHook('onRoute', ({ url, method, schema }) => {
    if (!url.startsWith('/-/') || typeof method !== 'string' || method === 'HEAD') return
    const path = (schema?.describedAs ?? url).replace(/:(\w+)/g, '{$1}')
    paths[path] = { ...paths[path], [method.toLowerCase()]: operationOf(path, schema ?? {}) }
  })
  app.get('/-/openapi.json', { schema: { summary: 'This OpenAPI description.' } }, (_request, reply) => {
    reply.header('cache-control', 'no-store').header('content-type', 'application/json')
    reply.send(
      Buffer.from(
        JSON.stringify({
          openapi: '3.1.0',
          info: {
            title: 'focus-breaker',
            version,
            description: "The proxy's own routes. All other requests are forwarded to focus-server.",
          },
          servers: [{ url: '..' }],
          paths,
          components: {
            securitySchemes: { token: { type: 'http', scheme: 'bearer', description: 'admin.token' } },
          },
        }),
      ),
    )
  })
}

function operationOf(path: string, schema: FastifySchema): object {
  const { summary, parameters = {}, takes, needsToken = false, response } = schema
  const answers = Object.entries(typeof response === 'object' && response !== null ? response : { 200: {} })
  const { mediaTypes = [JSON_TYPE] } = schema
  const contentOf = (body: unknown) =>
    Object.fromEntries(
      mediaTypes.map(type => [type, { schema: type === JSON_TYPE ? body : { type: 'string' } }]),
    )
  const inPath = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => ({
    name,
    in: 'path',
    required: true,
    schema: { type: 'string' },
  }))
  const inQuery = Object.entries(parameters).map(([name, { description, example }]) => ({
    name,
    in: 'query',
    description,
    example,
    schema: { type: 'string' },
  }))
  return {
    summary,
    ...(inPath.length + inQuery.length > 0 && { parameters: [...inPath, ...inQuery] }),
    ...(takes !== undefined && {
      requestBody: { required: true, content: { [JSON_TYPE]: { schema: takes } } },
    }),
    ...(needsToken && { security: [{ token: [] }] }),
    responses: {
      ...Object.fromEntries(
        answers.map(([status, body]) => [
          status,
          {
            description: status === '204' ? 'Done.' : 'The response.',
            ...(status !== '204' && mediaTypes.length > 0 && { content: contentOf(body) }),
          },
        ]),
      ),
      default: {
        description: 'A refusal or an error.',
        content: {
          [JSON_TYPE]: { schema: Type.Union([RefusalBody, ErrorBody]) },
          'application/problem+json': { schema: ProblemBody },
          'text/plain': { schema: { type: 'string' } },
        },
      },
    },
  }
}
