/** A table; a `|` in a cell does not end it. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const lines = [head, head.map(() => '---'), ...rows]
  return lines
    .map(cells => `| ${cells.map(cell).join(' | ')} |`)
    .join('\n')
    .replace(/^\| (---.*) \|$/m, (_, dashes: string) => `|${dashes.replaceAll(' ', '')}|`)
}

/** Words of code, separated by commas. */
export function codes(words: readonly string[]): string {
  return words.map(word => `\`${word}\``).join(', ')
}

/** The text with its first letter in upper case. */
export function sentenceCase(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1)
}

function cell(text: string): string {
  return text.replaceAll('|', '\\|').replaceAll('\n', ' ')
}
