import { type DestinationStream, type Logger, pino } from 'pino'
import { prettyFactory } from 'pino-pretty'
import type { LogFormat, LogLevel } from '../domain/vocabulary.js'
import { Output } from './output.js'

/** The options of the logger. */
export type LogOptions = {
  readonly level: LogLevel
  readonly format: LogFormat
  /** With `pretty`: writes only the message, without the fields. */
  readonly hideFields?: boolean
  /** Where lines are written; standard output by default. If an `Output` drops lines, a later line reports that. */
  readonly destination?: DestinationStream
}

/** Creates the logger of the program: JSON lines, or lines for people. Fields that may hold secrets are masked. */
export function createLogger({
  level,
  format,
  hideFields = false,
  destination = new Output(1),
}: LogOptions): Logger {
  const options = {
    level,
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
    redact: {
      paths: [
        'authorization',
        'token',
        '*.authorization',
        '*.cookie',
        '*.token',
        'req.headers',
        'headers.authorization',
        'headers.cookie',
      ],
      censor: '********',
    },
  }
  const log = pino(options, format === 'pretty' ? prettyLines(destination, hideFields) : destination)
  if (destination instanceof Output) destination.onLoss(loss => log.warn(loss, 'log lines were dropped'))
  return log
}

/** Formats lines without the stream of pino-pretty, which has an unbounded buffer and ends at the first error. */
function prettyLines(destination: DestinationStream, hideFields: boolean): DestinationStream {
  const prettify = prettyFactory({
    // With the fields hidden, pino-pretty writes no newline after a single line.
    singleLine: !hideFields,
    hideObject: hideFields,
    ...(hideFields && { messageFormat: '{if refused}{refused} {end}{msg}' }),
    translateTime: 'SYS:yyyy-mm-dd HH:MM:ss.l o',
    ignore: 'pid,hostname',
  })
  return { write: line => destination.write(prettify(line)) }
}
