/**
 * `npm run docs` writes every file that is generated from the program; with `--check` it lists the stale ones and exits
 * with 1.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { commandLinePage } from './command-line.js'
import { configurationPage, defaultYaml, fileSchemaJson } from './configuration.js'
import { eventsPage } from './events.js'
import { httpApiPage } from './http-api.js'
import { logPage } from './log-lines.js'
import { metricsPage } from './metrics.js'
import { prometheusRule } from './prometheus-rule.js'
import { root } from './repository.js'
import { responsesPage } from './responses.js'
import { builtProgram } from './running.js'
import { readSource } from './source-texts.js'

const program = await builtProgram()
const source = readSource()
const files = new Map([
  ['config/default.yaml', defaultYaml()],
  ['config/schema.json', fileSchemaJson()],
  ['deploy/kubernetes/components/monitoring/prometheusrule.yaml', prometheusRule()],
  ['docs/reference/command-line.md', commandLinePage()],
  ['docs/reference/configuration.md', configurationPage()],
  ['docs/reference/events.md', eventsPage()],
  ['docs/reference/http-api.md', httpApiPage(program.description)],
  ['docs/reference/log.md', logPage(source.logCalls)],
  ['docs/reference/metrics.md', metricsPage(program.exposition)],
  ['docs/reference/responses.md', responsesPage(source.errorCalls)],
])
await program.close()

for (const [path, text] of files) {
  if (!process.argv.includes('--check')) writeFileSync(root + path, text)
  else if (readFileSync(root + path, 'utf8') !== text) {
    process.stderr.write(`${path} is stale; run \`npm run docs\`\n`)
    process.exitCode = 1
  }
}
