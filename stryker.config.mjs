// Mutation testing, one folder of src/ at a time: see docs/explanation/mutation-testing.md.
const folder = process.env.MUTATE

const MUTATED = {
  domain: ['src/domain/**/*.ts'],
  breaker: ['src/breaker/**/*.ts'],
  // What unit tests hold. The rest of the folder is held by tests with real sockets, seconds for each mutant.
  proxy: ['exchange', 'headers', 'refusal', 'shared-response'].map(name => `src/proxy/${name}.ts`),
}

export default {
  mutate: MUTATED[folder] ?? [],
  testRunner: 'command',
  // All mutants are compiled at once; a variable chooses one of them at run time.
  buildCommand: 'npx tsc -p tsconfig.json',
  commandRunner: { command: 'node .build/test/mutation/run.js' },
  // The native compiler has no API with which Stryker could rewrite tsconfig.json, and nothing in it has to be.
  tsconfigFile: 'none',
  ignorePatterns: ['.build', 'dist'],
  tempDirName: '.build/stryker',
  reporters: ['clear-text'],
  clearTextReporter: { allowColor: false, reportTests: false, logTests: false },
  concurrency: 1,
}
