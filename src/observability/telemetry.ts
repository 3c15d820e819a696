import type { Logger } from 'pino'

/** Sends the recorded spans and stops exporting traces. */
export type StopTelemetry = () => Promise<void>

/** How long the program waits for the recorded spans to be sent when it exits. */
const FLUSH_TIMEOUT_MS = 2000

/** How long after that the process exits even if the exporter is still waiting. */
const EXIT_GRACE_MS = 200

/**
 * Exports a span for each request if the standard OpenTelemetry variables enable it
 * (https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/). Must be called before the app is
 * created. The packages are optional: if they are missing, a warning is logged and no traces are exported.
 */
export async function startTelemetry(environment: NodeJS.ProcessEnv, log: Logger): Promise<StopTelemetry> {
  const doNothing = async () => undefined
  if (!isWanted(environment)) return doNothing
  try {
    const [{ FastifyOtelInstrumentation }, { NodeSDK }] = await Promise.all([
      import('@fastify/otel'),
      import('@opentelemetry/sdk-node'),
    ])
    const sdk = new NodeSDK({
      // The variables take precedence.
      ...(!isNamed(environment) && { serviceName: 'focus-breaker' }),
      // Only traces are exported: metrics are scraped by Prometheus, and the log goes to standard output.
      metricReaders: [],
      logRecordProcessors: [],
      instrumentations: [
        // One span per request, without spans of the proxy's own hooks.
        new FastifyOtelInstrumentation({
          registerOnInitialization: true,
          instrumentHooks: false,
          instrumentHandler: false,
        }),
      ],
    })
    sdk.start()
    log.info('exporting traces')
    return async () => {
      let timer: NodeJS.Timeout | undefined
      const late = new Promise<'late'>(resolve => {
        timer = setTimeout(() => resolve('late'), FLUSH_TIMEOUT_MS)
      })
      // An unreachable collector must not delay the exit.
      const ended = await Promise.race([sdk.shutdown().catch(() => undefined), late])
      clearTimeout(timer)
      // The timers and requests of the exporter would keep the process alive for up to ten seconds more.
      if (ended === 'late') setTimeout(() => process.exit(), EXIT_GRACE_MS).unref()
    }
  } catch (error) {
    log.warn({ err: error }, 'cannot export traces; run: npm install @fastify/otel @opentelemetry/sdk-node')
    return doNothing
  }
}

function isNamed({ OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES }: NodeJS.ProcessEnv): boolean {
  return Boolean(OTEL_SERVICE_NAME) || /(^|,)\s*service\.name\s*=/.test(OTEL_RESOURCE_ATTRIBUTES ?? '')
}

function isWanted(environment: NodeJS.ProcessEnv): boolean {
  if (environment.OTEL_SDK_DISABLED?.toLowerCase() === 'true') return false
  const exporter = environment.OTEL_TRACES_EXPORTER
  if (exporter) return exporter !== 'none'
  return Boolean(environment.OTEL_EXPORTER_OTLP_ENDPOINT || environment.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT)
}
