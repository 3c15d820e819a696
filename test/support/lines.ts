import type { Readable } from 'node:stream'

/**
 * Calls `onLine` for each line of a text stream, including an unterminated last one. Only a line feed ends a line:
 * since Node 24 `node:readline` also splits at U+2028, which JSON lines may contain.
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
