/** The same in one line: what an operator or focus-server said must not begin a line of its own, which CI may take for a command. */
export function oneLine(text: string): string {
  return text.replace(/[\p{C}\p{Zl}\p{Zp}]+/gu, ' ')
}
