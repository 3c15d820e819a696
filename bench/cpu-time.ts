import { readdirSync, readFileSync } from 'node:fs'

/** The unit of `/proc/<pid>/stat`: 1/100 s on every Linux that Node supports. */
const TICK_MS = 10

/**
 * The processor time that a process has used so far, all its threads together, in milliseconds.
 *
 * It is read in nanoseconds from `/proc/<pid>/task/<thread>/schedstat`, or in steps of 10 ms from `/proc/<pid>/stat`
 * when the kernel does not keep the former. Undefined when there is no `/proc`.
 */
export function cpuMs(pid: number): number | undefined {
  return fromSchedstat(pid) ?? fromStat(pid)
}

function fromSchedstat(pid: number): number | undefined {
  try {
    let nanoseconds = 0
    for (const thread of readdirSync(`/proc/${pid}/task`)) {
      nanoseconds += Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'latin1').split(' ')[0])
    }
    // A kernel without scheduler statistics reports zeros.
    return nanoseconds > 0 ? nanoseconds / 1e6 : undefined
  } catch {
    return undefined
  }
}

function fromStat(pid: number): number | undefined {
  try {
    // proc(5): utime and stime are fields 14 and 15. Field 2, in parentheses, may hold spaces.
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return (Number(fields[11]) + Number(fields[12])) * TICK_MS
  } catch {
    return undefined
  }
}
