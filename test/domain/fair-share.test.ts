import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { givesWay } from '../../src/domain/fair-share.js'

/** The number of places of each client, by name. */
function places(sizes: Readonly<Record<string, number>>): ReadonlyMap<string, { readonly size: number }> {
  return new Map(Object.entries(sizes).map(([client, size]) => [client, { size }]))
}

test('the client that has the most gives way to one that has none', () => {
  assert.equal(givesWay(places({ a: 2, b: 5, c: 3 }), 'new'), 'b')
})

test('a client gives way only if it has at least two more', () => {
  assert.equal(givesWay(places({ a: 1 }), 'new'), undefined)
  assert.equal(givesWay(places({ a: 2 }), 'new'), 'a')
  assert.equal(givesWay(places({ a: 4, b: 3 }), 'b'), undefined)
  assert.equal(givesWay(places({ a: 5, b: 3 }), 'b'), 'a')
})

test('a client does not give way to itself, and no client gives way if none has a place', () => {
  assert.equal(givesWay(places({ a: 9 }), 'a'), undefined)
  assert.equal(givesWay(places({}), 'a'), undefined)
})

test('the client that gives way never ends up with fewer places than the other one had', () => {
  const anySizes = fc.dictionary(fc.constantFrom('a', 'b', 'c', 'd', 'e'), fc.integer({ min: 1, max: 6 }))
  fc.assert(
    fc.property(anySizes, fc.constantFrom('a', 'b', 'new'), (sizes, client) => {
      const own = sizes[client] ?? 0
      const most = Math.max(0, ...Object.values(sizes))
      const other = givesWay(places(sizes), client)
      if (other === undefined) assert.ok(most < own + 2, `${most} of one client, ${own} of this one`)
      else {
        assert.equal(sizes[other], most)
        assert.ok(most - 1 >= own + 1)
      }
    }),
  )
})

test('clients that arrive one after the other end up with equal shares', () => {
  const CAPACITY = 12
  const held = new Map<string, { size: number }>()
  const enter = (client: string) => {
    const total = [...held.values()].reduce((sum, { size }) => sum + size, 0)
    if (total === CAPACITY) {
      const other = givesWay(held, client)
      const giver = other === undefined ? undefined : held.get(other)
      if (giver === undefined) return
      giver.size -= 1
    }
    const own = held.get(client)
    if (own === undefined) held.set(client, { size: 1 })
    else own.size += 1
  }
  for (const client of ['greedy', 'second', 'third']) for (let n = 0; n < 100; n += 1) enter(client)
  const sizes = [...held.values()].map(({ size }) => size)
  assert.equal(sizes.length, 3)
  assert.ok(Math.max(...sizes) - Math.min(...sizes) <= 1, `${sizes}`)
})
