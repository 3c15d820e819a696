/** The state of the fiber. `partial` is a fiber that is coming back and still counts as waiting. */
export type Fiber = 'present' | 'missing' | 'partial'

/** One step of a scenario: a state of the fiber, or `absent` when the server does not listen. */
export type ScenarioState = Fiber | 'absent'

/** A timeline as plain data: one state per step. Created by `parseScenario`, so it has at least one step. */
export interface Scenario {
  readonly states: readonly [ScenarioState, ...ScenarioState[]]
  readonly stepMs: number
  /** Whether it starts again at its end. Otherwise its last state is kept. */
  readonly repeats: boolean
}

/** A syntax error, for a message of the form "at character N expected …, given …". */
export interface ScenarioFault {
  /** Index into the input text, from 0. */
  readonly position: number
  readonly expected: string
  readonly given: string
}

/** The outcome of `parseScenario`. */
export type ParsedScenario =
  | { readonly ok: true; readonly scenario: Scenario }
  | { readonly ok: false; readonly fault: ScenarioFault }

/** Maximum number of steps: more than a day of seconds, and still a small array. */
export const maxSteps = 100_000

const stateOf: ReadonlyMap<string, ScenarioState> = new Map([
  ['+', 'present'],
  ['-', 'missing'],
  ['~', 'partial'],
  ['x', 'absent'],
])
const anyState = '"+", "-", "~" or "x"'

/**
 * Parses a timeline: `+` present, `-` missing, `~` coming back, `x` no server. Each character is one step of `stepMs`
 * milliseconds. A number after it repeats it (`+20-30~5`). White space is ignored. A `.` at the end keeps the last
 * state instead of starting again.
 *
 * @throws RangeError if a timer cannot wait for `stepMs`. Invalid text never throws.
 */
export function parseScenario(text: string, stepMs = 1000): ParsedScenario {
  if (!(stepMs >= 1 && stepMs <= 2 ** 31 - 1)) {
    throw new RangeError(`stepMs: expected 1 to 2147483647 milliseconds, given ${stepMs}`)
  }
  const states: ScenarioState[] = []
  let repeats = true
  let repeatable = false
  // White space separates: "+2 5" is an error, not 25 steps.
  for (const token of text.matchAll(/\d+|\S/gu)) {
    const [given] = token
    const faultAt = (expected: string) => fault(token.index, expected, JSON.stringify(given))
    if (!repeats) return faultAt('nothing after "."')
    const state = stateOf.get(given)
    const last = states.at(-1)
    if (state !== undefined) {
      states.push(state)
      repeatable = true
    } else if (last === undefined) {
      return faultAt(anyState)
    } else if (given === '.') {
      repeats = false
    } else if (repeatable && /^\d/.test(given)) {
      const count = Number(given)
      if (count < 1) return faultAt('a count of 1 or more')
      if (states.length - 1 + count > maxSteps) return faultAt(`at most ${maxSteps} steps in all`)
      for (let step = 1; step < count; step += 1) states.push(last)
      repeatable = false
    } else {
      return faultAt(`${anyState}, or "." at the end`)
    }
    if (states.length > maxSteps) return faultAt(`at most ${maxSteps} steps in all`)
  }
  const [first, ...rest] = states
  if (first === undefined) return fault(text.length, `at least one step: ${anyState}`, 'nothing')
  return { ok: true, scenario: { states: [first, ...rest], stepMs, repeats } }
}

/** The state `elapsedMs` after the start of the scenario; before the start, the first state. */
export function fiberAt(scenario: Scenario, elapsedMs: number): ScenarioState {
  const { states, stepMs, repeats } = scenario
  const step = Math.max(0, Math.floor(elapsedMs / stepMs))
  const index = repeats ? step % states.length : Math.min(step, states.length - 1)
  return states[index] ?? states[0]
}

function fault(position: number, expected: string, given: string): ParsedScenario {
  return { ok: false, fault: { position, expected, given } }
}
