import assert from 'node:assert/strict'
import type Type from 'typebox'
import type { Static } from 'typebox'
import { HistoryFile } from '../../src/outages/file.js'
import {
  OutageRecord,
  outageFromJson,
  UnreachablePeriodRecord,
  unreachablePeriodFromJson,
} from '../../src/outages/record.js'

/** The outages and unreachable periods in a history file, in the order of the file, oldest first. */
export function keptIn(path: string) {
  const file = openToRead(path)
  const outages = recordsOf(file, 'outage', OutageRecord).map(([, record]) => outageFromJson(record))
  const periods = recordsOf(file, 'unreachable', UnreachablePeriodRecord)
  return {
    outages,
    unreachablePeriods: periods.map(([, record]) => unreachablePeriodFromJson(record)),
    skippedLines: file.skippedLines,
  }
}

/** The records of one kind in a history file, by key. */
export function recordsIn<Record extends Type.TObject>(path: string, kind: string, schema: Record) {
  return recordsOf(openToRead(path), kind, schema)
}

function openToRead(path: string): HistoryFile {
  const clock = () => Date.parse('2100-01-01T00:00:00Z')
  return new HistoryFile({ file: path, clock, onFault: error => assert.fail(`${path}: ${error}`) })
}

function recordsOf<Record extends Type.TObject>(file: HistoryFile, kind: string, schema: Record) {
  let found: readonly (readonly [key: string, record: Static<Record>])[] = []
  file.join<Record>({
    kind,
    schema,
    maxBytes: 0,
    records: () => [],
    record: () => undefined,
    resume: records => {
      found = records
    },
  })
  return found
}
