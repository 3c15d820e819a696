import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { isObject } from './configure-body.js'
import { type Fault, parseFault, show } from './fault-injection.js'
import { bodyText, sendJson } from './received.js'
import type { Fiber } from './scenario.js'

/** Operations of the control routes on the running simulator. */
export interface Controls {
  readonly counters: object
  resetCounters(): void
  setFiber(state: Fiber): Promise<void>
  setFault(route: string, fault: Fault | null): Promise<void>
}

/** Path prefix of the control routes. Requests below it are neither counted nor subject to faults. */
export const controlPrefix = '/_simulator/'

/**
 * Adds routes by which tests in other processes control the simulator. They return 204 on success and 400 for invalid
 * input.
 */
export function addControl(app: FastifyInstance, controls: Controls): void {
  app.get(`${controlPrefix}counters`, (_request, reply) => sendJson(reply, 200, controls.counters))

  app.post(`${controlPrefix}reset`, (_request, reply) => {
    controls.resetCounters()
    return reply.code(204).send()
  })

  app.put(`${controlPrefix}fiber`, async (request, reply) => {
    const body = jsonObject(request)
    if (typeof body === 'string') return refuse(reply, body)
    const { state } = body
    if (state !== 'present' && state !== 'missing' && state !== 'partial') {
      return refuse(reply, `state: expected "present", "missing" or "partial", given ${show(state)}`)
    }
    await controls.setFiber(state)
    return reply.code(204).send()
  })

  app.put(`${controlPrefix}fault`, async (request, reply) => {
    const body = jsonObject(request)
    if (typeof body === 'string') return refuse(reply, body)
    const { route } = body
    if (typeof route !== 'string' || !/^(\*|[A-Z]+ \/\S*)$/.test(route)) {
      return refuse(
        reply,
        `route: expected "*" or a method and a path like "POST /configure", given ${show(route)}`,
      )
    }
    const fault = body.fault === null ? null : parseFault(body.fault)
    if (typeof fault === 'string') return refuse(reply, fault)
    if (fault?.kind === 'refuse') {
      // This destroys every open socket including this one, so send the response first.
      reply.raw.once('finish', () => void controls.setFault(route, fault))
    } else {
      await controls.setFault(route, fault)
    }
    return reply.code(204).send()
  })
}

function refuse(reply: FastifyReply, error: string): FastifyReply {
  return sendJson(reply, 400, { error })
}

function jsonObject(request: FastifyRequest): Readonly<Record<string, unknown>> | string {
  const text = bodyText(request)
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return `body: expected JSON, given ${show(text)}`
  }
  return isObject(value) ? value : `body: expected a JSON object, given ${show(value)}`
}
