import { type DestinationStream, type Logger, pino } from 'pino'
import pretty from 'pino-pretty'
import type { LogFormat, LogLevel } from '../domain/vocabulary.js'

/** What the logger needs. */
export type LogOptions = {
  readonly level: LogLevel
  readonly format: LogFormat
  /** With `pretty`: writes only the message, without the fields. */
  readonly hideFields?: boolean
  /** Where the lines go; standard output by default. */
  readonly destination?: DestinationStream
}

/** Makes the logger of the program: JSON lines, or lines for people. Fields that may hold secrets are masked. */
export function createLogger({ level, format, hideFields = false, destination }: LogOptions): Logger {
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
  if (format === 'pretty') {
    const stream = pretty({
      // With the fields hidden, pino-pretty writes no newline after a single line.
      singleLine: !hideFields,
      hideObject: hideFields,
      ...(hideFields && { messageFormat: '{if refused}{refused} {end}{msg}' }),
      translateTime: 'SYS:HH:MM:ss',
      ignore: 'pid,hostname',
      ...(destination && { destination }),
    })
    return pino(options, stream)
  }
  return destination === undefined ? pino(options) : pino(options, destination)
}
