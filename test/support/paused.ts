/** Stops a process with SIGSTOP: its connections stand, and it does nothing. */
export function pause(pid: number): void {
  process.kill(pid, 'SIGSTOP')
}

/** Lets it go on; nothing happens if it has ended meanwhile. A paused process takes no notice of SIGTERM. */
export function resume(pid: number): void {
  try {
    process.kill(pid, 'SIGCONT')
  } catch {
    // It has ended.
  }
}
