/** A cell of CSV: text, a number, or nothing. */
export type Cell = string | number | null

/** What spreadsheets take for the beginning of a formula. */
const FORMULA = /^[\s\p{C}]*[=+\-@\uFF1D\uFF0B\uFF0D\uFF20]|^[\t\r\n]/u

/** What must stand in quotes (RFC 4180). */
const SPECIAL = /[",\r\n]|^\s|\s$/

/**
 * Rows as CSV (RFC 4180). Clients choose user agents, so a text that a spreadsheet would take for a formula gets an
 * apostrophe in front: it is then shown as text.
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
