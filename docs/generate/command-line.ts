import { spawnSync } from 'node:child_process'
import { root } from './repository.js'

/** `docs/reference/command-line.md`: the help that the built program prints. */
export function commandLinePage(): string {
  const overview = help()
  const commands = [...overview.matchAll(/^ {2}([a-z]+) {2,}\S/gm)].map(([, name = '']) => name)
  if (commands.length === 0) throw new Error('the help of the program lists no commands')
  return `# Command line

Generated from the program's own help by \`npm run docs\`.

${block(overview)}
${commands.map(name => `## \`focus-breaker ${name}\`\n\n${block(help(name))}`).join('\n')}`
}

function help(...command: readonly string[]): string {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [`${root}dist/cli/main.js`, ...command, '--help'],
    { encoding: 'utf8' },
  )
  if (status !== 0) throw new Error(`the help of ${command.join(' ')} failed with ${status}: ${stderr}`)
  // The first line of the overview names the version, which would make the page stale at each release.
  return stdout.replace(/^focus-breaker \d+\.\d+\.\d+\S*: /, 'focus-breaker: ')
}

function block(text: string): string {
  return `\`\`\`text\n${text.trimEnd()}\n\`\`\`\n`
}
