/** Stops a process with SIGSTOP: its connections stay open, and it does nothing. */
export function pause(pid: number): void {
  process.kill(pid, 'SIGSTOP')
}

/** Resumes it, unless it has ended in the meantime. A paused process does not react to SIGTERM. */
export function resume(pid: number): void {
  try {
    process.kill(pid, 'SIGCONT')
  } catch {
    // It has ended.
  }
}
