import type { TestContext } from 'node:test'
import { until } from './harness.js'
import { PacedClient } from './paced-client.js'
import { type ScriptedUpstream, scripted, wholeText } from './scripted-upstream.js'

let rounds = 0

/**
 * Fails unless this many requests can be at the upstream at the same time, that is, all slots are free. Each request
 * comes from its own address, so that no client share limits them.
 */
export async function assertSlotsAreFree(
  t: TestContext,
  slots: { readonly url: string; readonly upstream: ScriptedUpstream; readonly count: number },
): Promise<void> {
  const { url, upstream, count } = slots
  rounds += 1
  const round = `place-${rounds}-`
  const ids = Array.from({ length: count }, (_, index) => `${round}${index}`)
  const clients = await Promise.all(
    ids.map(async (id, index) => {
      const client = await PacedClient.connect(t, url, { localAddress: `127.0.1.${index + 1}` })
      client.send(`GET ${scripted('/channels', id, 'held')} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n`)
      return { id, client }
    }),
  )
  const arrived = () => ids.filter(id => upstream.received(id)).length
  await until(() => arrived() === count, {
    what: `${count} requests are at the upstream at the same time`,
  }).catch(cause => {
    throw new Error(`${arrived()} of ${count} slots at the upstream were free`, { cause })
  })
  upstream.release(id => id.startsWith(round))
  await until(() => clients.every(({ id, client }) => client.has(wholeText(id))), {
    what: 'the requests that took the slots have their responses',
  })
}
