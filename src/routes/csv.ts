/** A CSV cell: text, a number, or empty. */
export type Cell = string | number | null

/** Strings that spreadsheets interpret as formulas. */
const FORMULA = /^[\s\p{C}]*[=+\-@\uFF1D\uFF0B\uFF0D\uFF20]|^[\t\r\n]/u

/** Strings that must be quoted (RFC 4180). */
const SPECIAL = /[",\r\n]|^\s|\s$/

/**
 * Formats rows as CSV (RFC 4180). Clients choose their user agents, so a string that a spreadsheet would interpret as a
 * formula is prefixed with an apostrophe, which makes it plain text.
 */
export function csv(rows: readonly (readonly Cell[])[]): Buffer {
  return Buffer.from(rows.map(row => `${row.map(textOf).join(',')}\r\n`).join(''))
}

function textOf(cell: Cell): string {
  if (cell === null) return ''
  if (typeof cell === 'number') return String(cell)
  const text = FORMULA.test(cell) ? `'${cell}` : cell
  return SPECIAL.test(text) ? `"${text.replaceAll('"', '""')}"` : text
}
