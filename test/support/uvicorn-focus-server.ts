import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { at, repositoryRoot, startProgram } from './harness.js'

const directory = join(repositoryRoot, 'test/interop')

/** The body of a configure call that focus-server accepts while it has a fiber. */
export const liveConfigure = readFileSync(join(directory, 'samples/configure.live.request.json'), 'utf8')

/** The same call with some fields changed. */
export function configuration(changes: object = {}): object {
  const sample: unknown = JSON.parse(liveConfigure)
  assert.ok(typeof sample === 'object')
  return { ...sample, ...changes }
}

/** One request as it reached uvicorn, its target byte for byte. */
export interface Received {
  readonly method: string
  readonly target: string
}

/** The stand-in for focus-server, FastAPI under real uvicorn, and the controls for a test. */
export interface FocusServer {
  readonly url: string
  setFiber(state: 'present' | 'missing' | 'partial'): Promise<void>
  /** How often the handler of an endpoint ran, by the endpoint's name. */
  handled(endpoint: string): Promise<number>
  /** The requests that reached uvicorn since the last reset, without the proxy's probes. */
  received(): Promise<readonly Received[]>
  /** Whether its validation accepts each of these bodies as a job with both times, neither of which counts as false. */
  takesForTimeRange(bodies: readonly string[]): Promise<readonly boolean[]>
  /** Forgets the arrived requests and restarts the job numbers. */
  reset(): Promise<void>
}

/**
 * Starts the stand-in on a free port of loopback, with its fiber connected, until the test ends.
 *
 * @param cors the origins whose pages may read its responses, with or without credentials.
 */
export async function startFocusServer(
  t: TestContext,
  cors: { readonly origins?: readonly string[]; readonly credentials?: boolean } = {},
): Promise<FocusServer> {
  const { origins = [], credentials = false } = cors
  const program = await startProgram(t, {
    command: '/usr/bin/python3',
    args: [join(directory, 'focus_server.py')],
    env: { ...process.env, ORIGINS: origins.join(','), CREDENTIALS: credentials ? 'yes' : 'no' },
    readyWhen: line => (/^\d+$/.test(line) ? Number(line) : undefined),
  })
  const url = `http://127.0.0.1:${program.ready}`
  return {
    url,
    setFiber: async state => {
      await control('PUT', '/fiber', { state })
    },
    handled: async endpoint => {
      const count = at(await control('GET', '/handled'), endpoint)
      return typeof count === 'number' ? count : 0
    },
    received: async () => received(await control('GET', '/received')),
    takesForTimeRange: async bodies => {
      const times = await control('POST', '/times', bodies)
      assert.ok(Array.isArray(times) && times.length === bodies.length)
      return times.map((each: unknown) => Array.isArray(each) && each.every(time => Boolean(time)))
    },
    reset: async () => {
      await control('POST', '/reset')
    },
  }

  async function control(method: string, path: string, body?: unknown): Promise<unknown> {
    const response = await fetch(`${url}/_control${path}`, {
      method,
      ...(body === undefined
        ? {}
        : { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }),
    })
    assert.equal(response.status, 200, `${method} /_control${path}`)
    return await response.json()
  }
}

function received(value: unknown): readonly Received[] {
  assert.ok(Array.isArray(value))
  return value
    .map((entry: unknown) => ({ method: String(at(entry, 'method')), target: String(at(entry, 'target')) }))
    .filter(({ method, target }) => !(method === 'GET' && target.endsWith('/live_metadata')))
}
