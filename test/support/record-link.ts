import { randomUUID } from 'node:crypto'
import type { TestContext } from 'node:test'
import type { StreamEntry } from '../../src/replicas/link.js'
import { pastOutages } from '../../src/replicas/one-record.js'
import { RecordExchange } from '../../src/replicas/record-exchange.js'
import { recordedReplica } from './recorded-replica.js'
import type { RedisServer } from './redis.js'

/** The name of a key, built as replicas build it. */
export const recordKey = (suffix: string) => `focus-breaker:1:{test}:${suffix}`

/** The part of the link to Redis that the exchange of records uses, without the log of readings. */
export function recordLink(t: TestContext, server: RedisServer, name: string) {
  const [redis, reads] = [server.client(), server.client()]
  let isFollowing = true
  t.after(() => {
    isFollowing = false
  })
  return {
    origin: randomUUID(),
    name,
    redis,
    key: recordKey,
    follow(suffix: string, from: string, onEntries: (all: readonly StreamEntry[]) => void) {
      const key = recordKey(suffix)
      let last = from
      const read = async () => {
        while (isFollowing) {
          const streams = await reads
            .xread('COUNT', 100, 'BLOCK', 500, 'STREAMS', key, last)
            .catch(() => null)
          for (const [, entries] of streams ?? []) {
            last = entries.at(-1)?.[0] ?? last
            onEntries(entries)
          }
          if (streams === null) await new Promise(resolve => setTimeout(resolve, 20))
        }
      }
      void read()
    },
  }
}

/** A process that keeps records and exchanges them. */
export function exchangingReplica(
  t: TestContext,
  server: RedisServer,
  name: string,
  clock: () => number,
  options: Parameters<typeof recordedReplica>[2] = {},
) {
  const replica = recordedReplica(name, clock, options)
  const link = recordLink(t, server, name)
  let skipped = 0
  /** The outage lengths that forecasts are based on, as last reported. */
  let pastMs: readonly number[] | undefined
  const exchange = new RecordExchange({
    ...{ replicas: link, store: replica.store, clock },
    onSkipped: () => {
      skipped += 1
    },
    onOutages: sets => {
      pastMs = pastOutages(sets, clock()).map(({ lengthMs }) => lengthMs)
    },
  })
  exchange.start()
  exchange.joined()
  t.after(() => {
    exchange.alone()
    return exchange.stop()
  })
  return {
    ...replica,
    ...{ exchange, link, skipped: () => skipped, pastMs: () => pastMs },
    /** The record of all replicas, as this process knows it now. */
    all() {
      exchange.update()
      return replica.view(exchange.sets)
    },
  }
}
