import type { TestContext } from 'node:test'
import { type SimulatorOptions, startSimulator } from '../../src/simulator/focus-server.js'

/** A live configure that focus-server accepts. */
export const live = {
  displayTimeAxisDuration: 30,
  nfftSelection: 1024,
  displayInfo: { height: 200 },
  channels: { min: 11, max: 109 },
  frequencyRange: { min: 0, max: 1000 },
  start_time: null,
  end_time: null,
  view_type: '0',
}

/** A simulator for the duration of a test, with shortcuts for requests. */
export async function simulate(t: TestContext, options?: SimulatorOptions) {
  const simulator = await startSimulator(options)
  t.after(() => simulator.close())
  const send = (method: string, path: string, body?: unknown) => {
    const json = { headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) }
    return fetch(simulator.url + path, { method, redirect: 'manual', ...(body === undefined ? {} : json) })
  }
  return { simulator, send, configure: (body: unknown) => send('POST', '/configure', body) }
}

/** Repeats the request until the response is the expected one; otherwise the test's own timeout ends it. */
export async function until<T>(ask: () => Promise<T> | T, isRight: (answer: T) => boolean): Promise<void> {
  while (!isRight(await ask())) await new Promise(resolve => setTimeout(resolve, 5))
}
