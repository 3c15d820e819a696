import { configureAnswer, type JobRequest } from './samples.js'

/** A job that a configure started and that has not ended yet. */
export interface Job {
  readonly id: string
  readonly kind: JobRequest['kind']
  readonly channels: { readonly min: number; readonly max: number }
  /** The body that its configure was answered with. */
  readonly answer: string
}

/** The jobs that hold the GPU: a bounded number of them, each with an end. */
export class Jobs {
  readonly #running = new Map<string, { readonly job: Job; readonly end: NodeJS.Timeout | undefined }>()
  readonly #maxJobs: number
  readonly #durationMs: number
  #started = 0

  constructor(maxJobs: number, durationMs: number) {
    this.#maxJobs = maxJobs
    this.#durationMs = durationMs
  }

  /** Starts a job; null when there is no room for one more. */
  start(request: JobRequest): Job | null {
    if (this.#running.size >= this.#maxJobs) return null
    this.#started += 1
    const id = `1-${1602 + this.#started}`
    const answer = configureAnswer(request, id, 12300 + this.#started)
    const job: Job = { id, kind: request.kind, channels: request.channels, answer }
    // A longer timer would fire at once; such a job lasts as long as the simulator.
    const ends = this.#durationMs < 2 ** 31
    const end = ends ? setTimeout(() => this.#running.delete(id), this.#durationMs).unref() : undefined
    this.#running.set(id, { job, end })
    return job
  }

  /** The job of this id while it runs. */
  find(id: string): Job | undefined {
    return this.#running.get(id)?.job
  }

  /** The jobs that run now, oldest first. */
  list(): readonly Job[] {
    return [...this.#running.values()].map(({ job }) => job)
  }

  /** Ends all of them. */
  clear(): void {
    for (const { end } of this.#running.values()) clearTimeout(end)
    this.#running.clear()
  }
}
