/** The cases of the bench, in the order in which they run. */
export const CASE_NAMES = ['refusal', 'get', 'post'] as const

/** One case of the bench. */
export type CaseName = (typeof CASE_NAMES)[number]

/** The settings of the bench from the environment. `bench.ts` describes each variable. */
export type Settings = {
  readonly cases: readonly CaseName[]
  /** Parts of the names of the peers to measure; all if empty. */
  readonly peers: readonly string[]
  readonly rounds: number
  readonly seconds: number
  readonly connections: number
  readonly subjectMain: string | undefined
  readonly beforeMain: string | undefined
  readonly jsonFile: string | undefined
  readonly cpuProfiles: string | undefined
}

/** The settings, or a line for each variable with an invalid value. */
export function settingsFrom(environment: NodeJS.ProcessEnv): Settings | string {
  const faults: string[] = []
  const number = (name: string, byDefault: number, accepts: (value: number) => boolean, expected: string) => {
    const value = Number(environment[name] ?? byDefault)
    if (!accepts(value)) faults.push(`${name}: expected ${expected}, got ${environment[name]}`)
    return value
  }
  const list = (name: string) => (environment[name] ?? '').split(',').filter(item => item !== '')
  const isCount = (value: number) => Number.isInteger(value) && value >= 1 && value <= 200
  const cases = list('BENCH_CASES')
  for (const name of cases.filter(each => !CASE_NAMES.some(known => known === each))) {
    faults.push(`BENCH_CASES: expected some of ${CASE_NAMES.join(', ')}, got ${name}`)
  }
  const settings = {
    cases: CASE_NAMES.filter(name => cases.length === 0 || cases.includes(name)),
    peers: list('BENCH_PEERS'),
    rounds: number('BENCH_ROUNDS', 9, isCount, 'a whole number from 1 to 200'),
    seconds: number('BENCH_SECONDS', 80, value => value >= 1 && value <= 3600, 'seconds from 1 to 3600'),
    connections: number('BENCH_CONNECTIONS', 32, isCount, 'a whole number from 1 to 200'),
    subjectMain: environment.BENCH_SUBJECT,
    beforeMain: environment.BENCH_MAIN,
    jsonFile: environment.BENCH_JSON,
    cpuProfiles: environment.BENCH_CPU_PROFILES,
  }
  return faults.length === 0 ? settings : faults.join('\n')
}
