import assert from 'node:assert/strict'
import { test } from 'node:test'
import { explain } from '../../src/config/fault.js'
import { LiveConfig } from '../../src/config/live.js'
import { load } from '../../src/config/load.js'
import { describe } from '../../src/config/options.js'
import type { Config } from '../../src/config/schema.js'

/** A configuration with the defaults and these options, each set by its environment variable. */
function configOf(options: Readonly<Record<string, string>> = {}): Config {
  const variables = new Map(describe().options.map(({ name, variable }) => [name, variable]))
  const environment = Object.fromEntries(
    Object.entries({ 'upstream.url': 'http://focus-server:5000', ...options }).map(([name, value]) => [
      variables.get(name) ?? assert.fail(`no option ${name}`),
      value,
    ]),
  )
  const loaded = load({ environment, flags: new Map() })
  assert.ok(loaded.ok, loaded.ok ? '' : explain(loaded.faults))
  return loaded.config
}

/** For each option that needs no file: another value, and how it comes into force. */
const OPTIONS: readonly (readonly [name: string, value: string, force: 'applied' | 'needs a restart'])[] = [
  ['server.host', '127.0.0.1', 'needs a restart'],
  ['server.port', '9090', 'needs a restart'],
  ['server.bodyPauseTimeoutMs', '1', 'needs a restart'],
  ['server.bodyTimeoutMs', '1', 'needs a restart'],
  ['server.responsePauseTimeoutMs', '1', 'needs a restart'],
  ['server.clientShare', '1', 'needs a restart'],
  ['server.healthPort', '8081', 'needs a restart'],
  ['server.drainDelayMs', '1', 'needs a restart'],
  ['server.maxHeaderBytes', '2048', 'needs a restart'],
  ['server.maxBodyBytes', '1', 'needs a restart'],
  ['server.maxConnections', '1', 'needs a restart'],
  ['server.maxRequestsPerConnection', '1', 'needs a restart'],
  ['server.headTimeoutMs', '100', 'needs a restart'],
  ['server.keepAliveTimeoutMs', '1', 'needs a restart'],
  ['upstream.maxConnections', '1', 'needs a restart'],
  ['upstream.maxQueued', '1', 'needs a restart'],
  ['upstream.queueTimeoutMs', '1', 'needs a restart'],
  ['server.drainTimeoutMs', '1', 'needs a restart'],
  ['server.trustProxy', '["loopback"]', 'needs a restart'],
  ['upstream.url', 'http://another:5000', 'needs a restart'],
  ['upstream.connectTimeoutMs', '5', 'needs a restart'],
  ['upstream.headersTimeoutMs', '5', 'needs a restart'],
  ['upstream.bodyTimeoutMs', '5', 'needs a restart'],
  ['upstream.maxHeaderBytes', '2048', 'needs a restart'],
  ['upstream.keepAliveMs', '5', 'needs a restart'],
  ['upstream.maxConnectionAgeMs', '5', 'needs a restart'],
  ['upstream.tls.insecureSkipVerify', 'true', 'needs a restart'],
  ['upstream.tls.serverName', 'focus.example', 'needs a restart'],
  ['basePath', '/focus-server', 'needs a restart'],
  ['probe.path', '/metadata', 'needs a restart'],
  ['probe.periodMs', '500', 'applied'],
  ['probe.timeoutMs', '500', 'applied'],
  ['probe.headers', '{"X-Api-Key":"0123"}', 'applied'],
  ['fiber.readyWhen', '[{"field":"dx","operator":">","value":0}]', 'applied'],
  ['circuit.waitingThreshold', '5', 'applied'],
  ['circuit.unreachableThreshold', '5', 'applied'],
  ['circuit.readyThreshold', '5', 'applied'],
  ['guard.routes', '[{"method":"PUT","path":"/a"}]', 'applied'],
  ['guard.scope', 'live', 'applied'],
  ['guard.mode', 'observe', 'applied'],
  ['guard.statusCode', '424', 'applied'],
  ['guard.maxConcurrency', '7', 'applied'],
  ['guard.maxWaiting', '7', 'applied'],
  ['retryAfter.minSeconds', '2', 'applied'],
  ['retryAfter.maxSeconds', '9', 'applied'],
  ['recovery.initialConcurrency', '7', 'applied'],
  ['recovery.maxConcurrency', '77', 'applied'],
  ['recovery.rampMs', '7', 'applied'],
  ['metadataCache.maxAgeMs', '7', 'applied'],
  ['admin.token', 'correct-horse-battery', 'applied'],
  ['notify.webhooks', '[{"url":"https://hooks.example/a","format":"slack"}]', 'applied'],
  ['notify.secret', 'whsec_c2VjcmV0IHNlY3JldCBzZWNyZXQ=', 'applied'],
  ['notify.name', 'lab 2', 'applied'],
  ['notify.overrides', 'true', 'applied'],
  ['notify.pageUrl', 'https://focus.example.com/-/', 'applied'],
  ['notify.lastingAfterMs', '1000', 'applied'],
  ['notify.cooldownMs', '0', 'applied'],
  ['override.file', '/tmp/override.yaml', 'needs a restart'],
  ['notify.retryForMs', '0', 'applied'],
  ['history.file', '/tmp/outages.jsonl', 'needs a restart'],
  ['replicas.url', 'redis://:battery@192.0.2.7', 'needs a restart'],
  ['replicas.namespace', 'lab-2', 'needs a restart'],
  ['replicas.name', 'left', 'needs a restart'],
  ['log.level', 'debug', 'applied'],
  ['log.format', 'pretty', 'needs a restart'],
]

/** The value of an option, by its dotted name. */
function optionOf(config: Config, name: string): unknown {
  return name
    .split('.')
    .reduce<unknown>(
      (part, key) => (typeof part === 'object' && part !== null ? Reflect.get(part, key) : part),
      config,
    )
}

for (const [name, value, force] of OPTIONS) {
  test(`${name}: ${force}`, () => {
    const [before, after] = [configOf(), configOf({ [name]: value })]
    const live = new LiveConfig(before)
    assert.deepEqual(
      live.replace(after),
      force === 'applied' ? { applied: [name], needRestart: [] } : { applied: [], needRestart: [name] },
    )
    assert.deepEqual(optionOf(live.current, name), optionOf(force === 'applied' ? after : before, name))
    // No other option has changed.
    assert.deepEqual(live.current, force === 'applied' ? after : before)
  })
}

test('each option that needs no file is in this table', () => {
  const known = new Set(OPTIONS.map(([name]) => name))
  const missing = describe()
    .options.map(({ name }) => name)
    .filter(name => !known.has(name) && !name.endsWith('File'))
  assert.deepEqual(missing, [])
})

test('it starts with the given configuration', () => {
  const config = configOf()
  assert.equal(new LiveConfig(config).current, config)
})

test('the same configuration again is not a change', () => {
  const live = new LiveConfig(configOf({ 'guard.mode': 'observe' }))
  assert.deepEqual(live.replace(configOf({ 'guard.mode': 'observe' })), { applied: [], needRestart: [] })
  assert.deepEqual(live.current, configOf({ 'guard.mode': 'observe' }))
})

test('several changes at once are reported by whether they are in force, in the order of the schema', () => {
  const live = new LiveConfig(configOf())
  const { applied, needRestart } = live.replace(
    configOf({
      'log.format': 'pretty',
      'log.level': 'warn',
      'guard.scope': 'live',
      'probe.path': '/metadata',
      'probe.periodMs': '100',
      'server.port': '1',
    }),
  )
  assert.deepEqual(applied, ['probe.periodMs', 'guard.scope', 'log.level'])
  assert.deepEqual(needRestart, ['server.port', 'probe.path', 'log.format'])
  assert.deepEqual(
    live.current,
    configOf({ 'log.level': 'warn', 'guard.scope': 'live', 'probe.periodMs': '100' }),
  )
})

test('an option that needs a restart is reported at each reload until the restart', () => {
  const live = new LiveConfig(configOf())
  const next = configOf({ 'server.port': '1', 'guard.scope': 'live' })
  assert.deepEqual(live.replace(next), { applied: ['guard.scope'], needRestart: ['server.port'] })
  assert.deepEqual(live.replace(next), { applied: [], needRestart: ['server.port'] })
  assert.deepEqual(live.replace(configOf()), { applied: ['guard.scope'], needRestart: [] })
  assert.deepEqual(live.current, configOf())
})

test('removing an option is a change too', () => {
  const live = new LiveConfig(configOf({ 'admin.token': 'correct-horse-battery' }))
  assert.deepEqual(live.replace(configOf()), { applied: ['admin.token'], needRestart: [] })
  assert.equal(live.current.admin.token, undefined)
})

test('the given configuration is not changed, so code that holds it still sees the old values', () => {
  const [before, after] = [configOf(), configOf({ 'circuit.readyThreshold': '9', 'server.port': '1' })]
  const live = new LiveConfig(before)
  live.replace(after)
  assert.deepEqual(
    [before, after],
    [configOf(), configOf({ 'circuit.readyThreshold': '9', 'server.port': '1' })],
  )
})
