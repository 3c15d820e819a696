import { setTimeout as sleep } from 'node:timers/promises'
import type { FastifyInstance } from 'fastify'
import type { Logger } from 'pino'
import { buildApp } from '../app.js'
import { type Fault, withoutCredentials } from '../config/fault.js'
import type { Loaded } from '../config/load.js'
import type { Config } from '../config/schema.js'
import { oneLine } from '../domain/text.js'
import { createLogger } from '../observability/logger.js'
import { startTelemetry } from '../observability/telemetry.js'
import { CLIENT_PACKAGE, loadClient } from '../replicas/redis-server.js'
import { inUrl, listenOn } from '../server/listen.js'
import type { Arguments, Flag } from './arguments.js'
import { loadFor } from './configuration.js'
import { effectiveConfiguration } from './effective-configuration.js'
import { checkFiles } from './file-checks.js'
import { signals } from './signals.js'
import { print, stderr, stdout } from './standard-streams.js'
import { usage } from './usage.js'
import { version } from './version.js'

/** The flags of `serve`. They apply without a command as well. */
export const SERVE_FLAGS: readonly Flag[] = [
  { name: 'config', value: 'FILE', sentence: 'YAML file; config/default.yaml shows every option' },
  { name: 'upstream', value: 'URL', sentence: 'URL of focus-server (upstream.url)' },
  { name: 'host', value: 'ADDRESS', sentence: 'address to listen on (server.host; default: 0.0.0.0)' },
  { name: 'port', value: 'NUMBER', sentence: 'port to listen on (server.port; default: 8080)' },
  {
    name: 'check-config',
    sentence:
      'check the configuration and the files that it names, print it with the origin of each value, and exit',
  },
]

/** Runs the proxy until a signal stops it. Returns the exit code. */
export async function serve(args: Arguments, environment: NodeJS.ProcessEnv): Promise<number> {
  const loaded = loadFor(args, environment)
  if (!loaded.ok) return usage(loaded.faults)
  const { config } = loaded
  const missing = await missingClient(loaded)
  if (args.flags.has('check-config')) {
    const checked = checkFiles(config, loaded.origins, Date.now())
    const { warnings } = checked
    const faults = [...checked.faults, ...missing]
    for (const warning of warnings) stderr.write(`warning: ${oneLine(warning)}\n`)
    return faults.length > 0 ? usage(faults) : print(effectiveConfiguration(config, loaded.origins))
  }
  if (missing.length > 0) return usage(missing)
  const log = createLogger({ ...config.log, destination: stdout })
  logFaultsOf(log)
  const stopTelemetry = await startTelemetry(environment, log)
  const loadAgain = () => loadFor(args, environment)
  const { app, breaker, listenForHealth, reload, retire } = buildApp(config, log, version, {
    linesDropped: () => stdout.dropped,
    loadAgain,
  })
  const health = await orFault(listenForHealth, config.server.host, config.server.healthPort ?? 0, {
    host: 'server.host',
    port: 'server.healthPort',
  })
  const urls = typeof health === 'object' ? health : await listen(app, config)
  if ('option' in urls) {
    await app.close()
    await stopTelemetry()
    return usage([urls])
  }
  const { state } = breaker.snapshot().circuit
  const { mode } = config.guard
  const [url, ...moreUrls] = urls
  log.info(
    {
      url,
      ...(moreUrls.length > 0 && { moreUrls }),
      ...(health !== undefined && { health }),
      upstream: withoutCredentials(config.upstream.url),
      version,
      mode,
      circuit: state,
    },
    'listening',
  )
  let isDraining = false
  signals.onHangup(() => {
    // A proxy that is draining does not reload.
    if (!isDraining) void reload()
  })
  const signal = await signals.stop()
  isDraining = true
  const { drainDelayMs, drainTimeoutMs } = config.server
  if (drainDelayMs > 0) {
    retire()
    log.info({ signal, drainDelayMs }, 'retiring')
    await sleep(drainDelayMs)
  }
  log.info({ signal, drainTimeoutMs }, 'draining')
  await app.close()
  await stopTelemetry()
  log.info('stopped')
  return 0
}

/** Returns a fault if replicas are configured but the Redis client is not installed. */
async function missingClient({ config, origins }: Loaded & { readonly ok: true }): Promise<readonly Fault[]> {
  if (config.replicas.url === undefined || (await loadClient()) !== undefined) return []
  const source = origins.get('replicas.url') ?? ''
  const expected = `the package ioredis to be installed next to focus-breaker (npm install ${CLIENT_PACKAGE})`
  return [{ option: 'replicas.url', source, expected, given: 'without it' }]
}

/**
 * Logs errors and warnings that Node would write to standard error. Node writes there synchronously, so a reader that
 * does not read would block the service.
 */
function logFaultsOf(log: Logger): void {
  process.on('uncaughtException', error => {
    log.fatal({ err: error }, 'uncaught exception, exiting')
    process.exit(1)
  })
  process.removeAllListeners('warning')
  process.on('warning', warning => log.warn({ err: warning }, 'Node.js warning'))
}

/** Listens on the configured address. Returns the URL of each address, or a fault. Other errors are thrown. */
export async function listen(app: FastifyInstance, config: Config): Promise<readonly string[] | Fault> {
  const { host, port, tls } = config.server
  const urls = await orFault(() => listenOn(app, host, port), host, port, LISTEN_OPTIONS)
  if ('option' in urls || tls.certFile === undefined) return urls
  return urls.map(url => url.replace(/^http:/, 'https:'))
}

const LISTEN_OPTIONS = { host: 'server.host', port: 'server.port' }

/** Returns the result of `listen`, or a fault if the address cannot be used. Other errors are thrown. */
async function orFault<T>(
  listen: () => Promise<T>,
  host: string,
  port: number,
  options: { readonly host: string; readonly port: string },
): Promise<T | Fault> {
  try {
    return await listen()
  } catch (error) {
    const fault = listenFault(error, host, port, options)
    if (fault === undefined) throw error
    return fault
  }
}

/** The fault for an address that cannot be listened on, with the option that set it; undefined for other errors. */
export function listenFault(
  error: unknown,
  host: string,
  port: number,
  options: { readonly host: string; readonly port: string },
): Fault | undefined {
  const address = error instanceof Error && 'address' in error ? String(error.address) : host
  const given = `${inUrl(address)}:${port}`
  switch (error instanceof Error && 'code' in error ? error.code : undefined) {
    case 'EADDRINUSE': {
      const expected = 'a port that is not in use'
      return { option: options.port, source: '', expected, given: `${given}, which is in use` }
    }
    case 'EACCES':
      return { option: options.port, source: '', expected: 'a port that this user may listen on', given }
    case 'EADDRNOTAVAIL':
    case 'EAFNOSUPPORT':
    case 'EINVAL':
    case 'EAI_FAIL':
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return { option: options.host, source: '', expected: 'an address of this machine', given: host }
    default:
      return undefined
  }
}
