import { configureResponse, type JobRequest } from './samples.js'

/** A running job, started by a configure request. */
export interface Job {
  readonly id: string
  readonly kind: JobRequest['kind']
  readonly channels: { readonly min: number; readonly max: number }
  /** The response body of its configure request. */
  readonly response: string
}

/** The jobs that use the GPU: a limited number, each with a limited duration. */
export class Jobs {
  readonly #running = new Map<string, { readonly job: Job; readonly end: NodeJS.Timeout | undefined }>()
  readonly #maxJobs: number
  readonly #durationMs: number
  #started = 0

  constructor(maxJobs: number, durationMs: number) {
    this.#maxJobs = maxJobs
    this.#durationMs = durationMs
  }

  /** Starts a job. Returns null if the maximum number is running. */
  start(request: JobRequest): Job | null {
    if (this.#running.size >= this.#maxJobs) return null
    this.#started += 1
    const id = `1-${1602 + this.#started}`
    const response = configureResponse(request, id, 12300 + this.#started)
    const job: Job = { id, kind: request.kind, channels: request.channels, response }
    // A longer timer would fire at once; such a job runs until the simulator stops.
    const ends = this.#durationMs < 2 ** 31
    const end = ends ? setTimeout(() => this.#running.delete(id), this.#durationMs).unref() : undefined
    this.#running.set(id, { job, end })
    return job
  }

  /** The running job with this id. */
  find(id: string): Job | undefined {
    return this.#running.get(id)?.job
  }

  /** The running jobs, oldest first. */
  list(): readonly Job[] {
    return [...this.#running.values()].map(({ job }) => job)
  }

  /** Ends all jobs. */
  clear(): void {
    for (const { end } of this.#running.values()) clearTimeout(end)
    this.#running.clear()
  }
}
