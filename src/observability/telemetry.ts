import type { Logger } from 'pino'

/** Ends the export of traces: what is recorded is sent first. */
export type StopTelemetry = () => Promise<void>

/** How long what is recorded may take to be sent when the program ends. */
const FLUSH_TIMEOUT_MS = 2000

/** What is left to the program then, until it is ended whatever the exporter still waits for. */
const EXIT_GRACE_MS = 200

/**
 * Exports a span for each request, when the standard variables of OpenTelemetry ask for it
 * (https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/). Has to be called before
 * the app is made. The packages that do it are optional; where they are not installed that is said, and
 * nothing else changes.
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
      // What the variables say goes before it.
      ...(!isNamed(environment) && { serviceName: 'focus-breaker' }),
      // Metrics are Prometheus', and the log is the log: only traces are sent.
      metricReaders: [],
      logRecordProcessors: [],
      instrumentations: [
        // One span a request: what our own hooks take is no news to anybody.
        new FastifyOtelInstrumentation({
          registerOnInitialization: true,
          instrumentHooks: false,
          instrumentHandler: false,
        }),
      ],
    })
    sdk.start()
    log.info('traces are exported')
    return async () => {
      let timer: NodeJS.Timeout | undefined
      const late = new Promise<'late'>(resolve => {
        timer = setTimeout(() => resolve('late'), FLUSH_TIMEOUT_MS)
      })
      // A collector that is not there must not hold up the end.
      const ended = await Promise.race([sdk.shutdown().catch(() => undefined), late])
      clearTimeout(timer)
      // The exporter's timers and requests would keep the process for up to ten seconds more, with its exit code.
      if (ended === 'late') setTimeout(() => process.exit(), EXIT_GRACE_MS).unref()
    }
  } catch (error) {
    log.warn({ err: error }, 'traces are not exported: npm install @fastify/otel @opentelemetry/sdk-node')
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
