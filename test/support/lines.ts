import type { Readable } from 'node:stream'

/**
 * Calls `onLine` for each line of a text stream, also for a last one without its end. Only a line feed ends a line:
 * `node:readline` takes U+2028 for an end as well since Node 24, and JSON lines may hold it.
 */
export function readLines(stream: Readable, onLine: (line: string) => void): void {
  let rest = ''
  stream.setEncoding('utf8')
  stream.on('data', (text: string) => {
    const lines = (rest + text).split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines) onLine(line.replace(/\r$/, ''))
  })
  stream.on('end', () => {
    if (rest !== '') onLine(rest)
  })
}
