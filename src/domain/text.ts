/** The text on one line: text from an operator or from focus-server must not start a line, which CI may read as a command. */
export function oneLine(text: string): string {
  return text.replace(/[\p{C}\p{Zl}\p{Zp}]+/gu, ' ')
}
