import { startSimulator } from '../src/simulator/focus-server.js'
import { announce } from './children.js'

/** A simulated focus-server that answers at once, and whose jobs end before they can run out. */
const simulator = await startSimulator({ latency: 'none', maxJobs: 1_000_000, jobDurationMs: 1 })

announce(simulator.url)
