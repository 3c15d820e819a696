import assert from 'node:assert/strict'
import { EventEmitter } from 'node:events'
import { test } from 'node:test'
import pino from 'pino'
import type { ReplicaGroup } from '../../src/domain/replica-group.js'
import { ChangeLog } from '../../src/observability/change-log.js'

class Group extends EventEmitter implements ReplicaGroup {
  readonly name = 'r0'
  readonly namespace = 'lab'
  readonly address = 'valkey.example:6379'
  readonly isJoined = true
  readonly problem = null
  readonly since = 0
  readonly members = []
  readonly isProber = true
  readonly skippedEntries = 0
  areSeveral = false
}

function setUp() {
  const lines: string[] = []
  const log = pino(
    { level: 'debug', base: null, timestamp: false },
    {
      write: line => {
        const { level, msg, redis, problem }: Record<string, unknown> = JSON.parse(line)
        lines.push([level, msg, redis, ...(problem === undefined ? [] : [problem])].join(' | '))
      },
    },
  )
  const group = new Group()
  new ChangeLog(log).attachToReplicas(group)
  return { group, lines }
}

test('a replica that joins logs whether there are others, and where Redis is', () => {
  const { group, lines } = setUp()
  group.emit('joined')
  assert.deepEqual(lines, [], 'the others are not known yet')
  group.emit('listed')
  group.areSeveral = true
  group.emit('listed')
  assert.deepEqual(lines, [
    '30 | connected to Redis; this is the only replica | valkey.example:6379',
    '30 | joined the other replicas | valkey.example:6379',
  ])
})

test('a replica that cannot use Redis logs one warning with the problem, however often it retries', () => {
  const { group, lines } = setUp()
  const message = 'cannot use Redis; this replica continues on its own | valkey.example:6379'
  group.emit('alone', 'connection refused')
  group.emit('alone', 'wrong user name or password')
  group.emit('listed')
  group.emit('alone', 'connection refused')
  assert.deepEqual(lines, [
    `40 | ${message} | connection refused`,
    `20 | ${message} | wrong user name or password`,
    '30 | connected to Redis; this is the only replica | valkey.example:6379',
    `40 | ${message} | connection refused`,
  ])
})
