/** @import { Known } from './shapes.d.ts' */

/** The newest JSON of each route. @type {Known} */
export const known = { status: null, history: null, outages: null, clients: null, override: null }

export const contact = {
  /** How far the server's clock is ahead of the browser's. Durations are counted by the server's clock. */
  aheadMs: 0,
  /** When the last response arrived, by the browser's clock; 0 before the first. */
  lastAt: 0,
  isLost: false,
}

/** The server's time. Without contact it stands still. */
export const now = () => (contact.isLost ? contact.lastAt : Date.now()) + contact.aheadMs
