import fc from 'fast-check'
import { type Circuit, startingCircuit, step, type Thresholds } from '../../src/domain/circuit.js'
import type { Finding, Reading } from '../../src/domain/reading.js'
import type { Recovery } from '../../src/domain/recovery.js'
import type { ReadingSource } from '../../src/domain/vocabulary.js'

/** The defaults of the configuration, with a ramp of three readings. */
export const thresholds: Thresholds = { waiting: 1, unreachable: 3, ready: 2 }
export const recovery: Recovery = { initialConcurrency: 2, maxConcurrency: 30, rampMs: 3000 }

/** The time between two drawn readings. */
export const STEP_MS = 1000

/** A circuit without readings, and one that a good first reading closed at 0. */
export const starting = startingCircuit(0)
export const closed: Circuit = {
  state: 'closed',
  since: 0,
  judgedAt: 0,
  failures: { waiting: 0, unreachable: 0 },
}

const FINDINGS: Readonly<Record<string, Finding>> = {
  '+': { kind: 'ready', metadata: { prr: 2000 } },
  '-': { kind: 'waiting', metadata: { prr: 0 }, missing: ['prr'] },
  x: { kind: 'unreachable', problem: 'connection refused' },
}

/** A drawn history as readings, one per second after `from`: `+` ready, `-` waiting, `x` unreachable. */
export function readings(drawing: string, from = 0): readonly Reading[] {
  return [...drawing.replaceAll(' ', '')].map((mark, index) => {
    const finding = FINDINGS[mark]
    if (finding === undefined) throw new Error(`not a reading: ${mark}`)
    return { at: from + (index + 1) * STEP_MS, source: 'probe', ...finding }
  })
}

/** The settings that a test may change: some of the thresholds, some of the recovery. */
export type Rules = { readonly thresholds?: Partial<Thresholds>; readonly recovery?: Partial<Recovery> }

/** The circuit after each reading of a drawn history. */
export function play(drawing: string, start: Circuit = closed, rules: Rules = {}): readonly Circuit[] {
  let circuit = start
  return readings(drawing, Math.max(start.since, start.judgedAt)).map(reading => {
    circuit = step(
      circuit,
      reading,
      { ...thresholds, ...rules.thresholds },
      { ...recovery, ...rules.recovery },
    )
    return circuit
  })
}

/** The circuit after the whole drawn history. */
export function after(drawing: string, start: Circuit = closed, rules: Rules = {}): Circuit {
  return play(drawing, start, rules).at(-1) ?? start
}

/** The states as a drawing, to compare with the history: `c`losed, `o`pen, `h`alf-open. */
export function draw(circuits: readonly Circuit[]): string {
  return circuits.map(({ state }) => state[0]).join('')
}

/** Any thresholds and recovery that the configuration allows, small enough to be reached. */
export const anyRules = fc.record({
  thresholds: fc.record({
    waiting: fc.integer({ min: 1, max: 4 }),
    unreachable: fc.integer({ min: 1, max: 4 }),
    ready: fc.integer({ min: 1, max: 4 }),
  }),
  recovery: fc
    .record({ initialConcurrency: fc.integer({ min: 1, max: 8 }), more: fc.nat(8), rampMs: fc.nat(5000) })
    .map(({ initialConcurrency, more, rampMs }) => ({
      initialConcurrency,
      maxConcurrency: initialConcurrency + more,
      rampMs,
    })),
})

/** Any finding with a source that can have it: a configure can only show that the fiber is missing. */
export const anySourced: fc.Arbitrary<{ readonly mark: string; readonly source: ReadingSource }> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({ mark: fc.constantFrom('+', '+', '-', 'x'), source: fc.constant('probe') }),
  },
  fc.record({ mark: fc.constantFrom('+', '-'), source: fc.constant('client') }),
  fc.record({ mark: fc.constant('-'), source: fc.constant('configure') }),
)

/** Any readings of every source in the order of their times, which may coincide. */
export const anyHistory = fc
  .array(fc.record({ sourced: anySourced, gapMs: fc.nat(4000) }), { maxLength: 30, size: 'max' })
  .map(marks => {
    let at = 0
    return marks.flatMap(({ sourced: { mark, source }, gapMs }) => {
      at += gapMs
      return readings(mark).map(reading => ({ ...reading, source, at }))
    })
  })
