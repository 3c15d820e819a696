import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import fc from 'fast-check'
import type { Redis } from 'ioredis'
import { LOST, REPORT } from '../../src/replicas/scripts.js'
import { requireOrSkip } from '../support/harness.js'
import { redisServer } from '../support/redis.js'

/** Longer than any test, so that a share does not expire. */
const LEASE_MS = 600_000

/** One replica, reduced to its slots. */
type Member = { readonly origin: string; inFlight: number; share: number; lacks: boolean }

async function client(t: TestContext): Promise<Redis> {
  const server = await redisServer(t)
  const redis = server.client()
  await redis.hset('state', 'epoch', 'e', 'shift', '0')
  return redis
}

async function report(redis: Redis, member: Member, limit: number, members = 'members'): Promise<number> {
  const { origin, inFlight, lacks } = member
  const given = ['e', origin, inFlight, lacks ? '1' : '0', limit, LEASE_MS, '{}']
  const reply: unknown = await redis.eval(REPORT, 2, members, 'state', ...given)
  assert.ok(Array.isArray(reply), `expected a share, got ${String(reply)}`)
  member.lacks = false
  member.share = Number(reply[0])
  return member.share
}

function members(count: number): readonly Member[] {
  return Array.from({ length: count }, (_, index) => ({
    ...{ origin: `replica ${index}`, inFlight: 0, share: 0, lacks: false },
  }))
}

test('replicas that admit within their shares never have more in flight together than the limit', async t => {
  if (!requireOrSkip(t, 'redis-server')) return
  const redis = await client(t)
  let run = 0
  const anyStep = fc.record({ who: fc.nat(), what: fc.constantFrom('report', 'ask', 'ask', 'end') })
  const property = fc.asyncProperty(
    fc.integer({ min: 1, max: 5 }),
    fc.integer({ min: 1, max: 9 }),
    fc.array(anyStep, { maxLength: 40 }),
    async (count, limit, steps) => {
      run += 1
      const all = members(count)
      for (const { who, what } of steps) {
        const member = all[who % count]
        assert.ok(member !== undefined)
        if (what === 'report') await report(redis, member, limit, `members ${run}`)
        else if (what === 'end') member.inFlight = Math.max(0, member.inFlight - 1)
        else if (member.inFlight < member.share) member.inFlight += 1
        else member.lacks = true
        assert.ok(all.reduce((sum, { inFlight }) => sum + inFlight, 0) <= limit)
      }
    },
  )
  await fc.assert(property, { numRuns: 200 })
})

test('a replica that gets more requests than the others gets all slots that they do not use', async t => {
  if (!requireOrSkip(t, 'redis-server')) return
  const redis = await client(t)
  const [busy, idle, other] = members(3)
  assert.ok(busy !== undefined && idle !== undefined && other !== undefined)
  for (const member of [busy, idle, other]) await report(redis, member, 9)
  // If no replica lacks slots, each has its fair share, so that the next request does not wait.
  for (const member of [busy, idle, other]) assert.equal(await report(redis, member, 9), 3)
  busy.inFlight = 3
  busy.lacks = true
  other.inFlight = 1
  await report(redis, busy, 9)
  await report(redis, idle, 9)
  await report(redis, other, 9)
  busy.lacks = true
  assert.equal(await report(redis, busy, 9), 8)
})

test('replicas that all lack slots get equal shares, whatever their order', async t => {
  if (!requireOrSkip(t, 'redis-server')) return
  const redis = await client(t)
  const all = members(3)
  const [first] = all
  assert.ok(first !== undefined)
  first.lacks = true
  assert.equal(await report(redis, first, 6), 6)
  first.inFlight = 6
  for (let round = 0; round < 8; round += 1) {
    for (const member of all) {
      member.lacks = true
      await report(redis, member, 6)
    }
    // One request ends, and each replica uses its slots.
    for (const member of all) {
      member.inFlight = Math.max(member.share, member.inFlight - 1)
    }
  }
  assert.deepEqual(
    all.map(({ share }) => share),
    [2, 2, 2],
  )
})

test('a single slot is passed from one replica to the next', async t => {
  if (!requireOrSkip(t, 'redis-server')) return
  const redis = await client(t)
  const all = members(3)
  const had = new Set<string>()
  for (let round = 0; round < 9; round += 1) {
    for (const member of all) {
      member.lacks = true
      if ((await report(redis, member, 1)) > 0) had.add(member.origin)
      member.inFlight = 0
    }
    assert.ok(all.reduce((sum, { share }) => sum + share, 0) <= 1)
  }
  assert.equal(had.size, 3)
})

test('the slots of a replica that stops reporting go to others when its lease expires', async t => {
  if (!requireOrSkip(t, 'redis-server')) return
  const redis = await client(t)
  const [dead, living] = members(2)
  assert.ok(dead !== undefined && living !== undefined)
  const report4 = async ({ origin, inFlight }: Member, leaseMs: number) => {
    const given = ['e', origin, inFlight, '1', 4, leaseMs, '{}']
    const reply: unknown = await redis.eval(REPORT, 2, 'members', 'state', ...given)
    assert.ok(Array.isArray(reply))
    return Number(reply[0])
  }
  assert.equal(await report4({ ...dead, inFlight: 3 }, 300), 4)
  assert.equal(await report4(living, LEASE_MS), 0)
  let share = 0
  while (share === 0) share = await report4(living, LEASE_MS)
  assert.equal(share, 4)
})

test('a report to a state other than the joined one is rejected without effect', async t => {
  if (!requireOrSkip(t, 'redis-server')) return
  const redis = await client(t)
  await redis.hset('state', 'epoch', 'another')
  assert.equal(await redis.eval(REPORT, 2, 'members', 'state', 'e', 'a', 0, '0', 4, LEASE_MS, '{}'), LOST)
  assert.equal(await redis.exists('members'), 0)
})
