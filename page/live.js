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

/** The server's time. Without contact it stops. */
export const now = () => (contact.isLost ? contact.lastAt : Date.now()) + contact.aheadMs

/** The minimum time between two requests for the state, and between two rounds for the rest. */
const STATUS_SPACING_MS = 1000
const REST_SPACING_MS = 4000
/** After this much silence the page reconnects. */
const SILENCE_MS = 20_000
const TIMEOUT_MS = 10_000
/** The pause before the first retry. It doubles with each retry, up to the longest. */
const RETRY_MS = 2000
const LONGEST_RETRY_MS = 10_000
/** A background tab closes its stream and polls: a browser opens only six connections to an origin. */
const HIDDEN_PERIOD_MS = 15_000
const MINUTE_MS = 60_000

/** @type {Record<keyof Known, string>} */
const ADDRESSES = {
  status: 'status',
  history: 'history',
  outages: 'outages?limit=20',
  clients: 'clients?limit=50',
  override: 'override',
}

/**
 * What the page does when something arrives. The functions are short and do not throw.
 *
 * @typedef {object} Listener
 * @property {(name: keyof Known) => void} arrived the JSON of a route has arrived
 * @property {() => void} roundOver a round of requests has ended
 * @property {() => void} restOver a round for everything but the state has ended
 * @property {(made: boolean) => void} contactChanged contact was made or lost
 * @property {() => void} minutePassed
 * @property {() => void} shown the tab has come to the foreground
 */

/**
 * Keeps `known` up to date: follows the events and requests what they change.
 *
 * @param {Listener} listener
 * @returns {{ askAll: () => void, connect: () => void }}
 */
export const startLive = listener => {
  let lastHeard = 0

  /** @param {keyof Known} name */
  const fetchOne = async name => {
    const signal = AbortSignal.timeout(TIMEOUT_MS)
    const response = await fetch(ADDRESSES[name], { signal, cache: 'no-store' })
    if (!response.ok) throw new Error(`${name}: ${response.status}`)
    known[name] = await response.json()
    const { status } = known
    if (name === 'status' && status !== null && status.reading !== null) {
      contact.aheadMs = Date.parse(status.reading.at) + status.reading.ageMs - Date.now()
    }
    listener.arrived(name)
  }

  /**
   * Requests some routes together. A call during a round leads to one more round after it.
   *
   * @type {(names: readonly (keyof Known)[], spacingMs: number) => { go: () => Promise<void>, soon: () => void }}
   */
  const asking = (names, spacingMs) => {
    let lastAt = Number.NEGATIVE_INFINITY
    let isAsking = false
    let isWanted = false
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer
    const go = async () => {
      clearTimeout(timer)
      timer = undefined
      if (isAsking) {
        isWanted = true
        return
      }
      isAsking = true
      isWanted = false
      const outcomes = await Promise.allSettled(names.map(fetchOne))
      listener.roundOver()
      if (!names.includes('status')) listener.restOver()
      if (outcomes.every(({ status }) => status === 'fulfilled')) contactMade()
      else if (names.includes('status')) contactFailed()
      else {
        // Only the state shows whether there is contact. The rest is requested again.
        statusAsked.go()
        isWanted = true
      }
      lastAt = performance.now()
      isAsking = false
      if (isWanted) soon()
    }
    const soon = () => {
      timer ??= setTimeout(go, Math.max(50, lastAt + spacingMs - performance.now()))
    }
    return { go, soon }
  }

  const statusAsked = asking(['status'], STATUS_SPACING_MS)
  const restAsked = asking(['history', 'outages', 'clients', 'override'], REST_SPACING_MS)
  const askAll = () => {
    statusAsked.go()
    restAsked.go()
  }

  const contactMade = () => {
    contact.lastAt = Date.now()
    lastHeard = performance.now()
    contact.isLost = false
    listener.contactChanged(true)
  }
  const contactFailed = () => {
    contact.isLost = true
    listener.contactChanged(false)
    reconnectSoon()
  }

  /** @type {EventSource | undefined} */
  let stream
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let reconnecting
  let failures = 0
  const connect = () => {
    clearTimeout(reconnecting)
    reconnecting = undefined
    stream?.close()
    stream = undefined
    askAll()
    if (document.hidden) {
      reconnectSoon(HIDDEN_PERIOD_MS)
      return
    }
    stream = new EventSource('events')
    /** @type {(name: string, handle: () => void) => void} */
    const on = (name, handle) =>
      stream?.addEventListener(name, () => {
        lastHeard = performance.now()
        handle()
      })
    on('open', () => {
      failures = 0
      askAll()
    })
    on('transition', askAll)
    on('override', askAll)
    on('reading', statusAsked.soon)
    on('refused', () => {
      statusAsked.soon()
      restAsked.soon()
    })
    // The next response shows whether only the stream broke.
    stream.addEventListener('error', () => {
      stream?.close()
      stream = undefined
      statusAsked.go()
      reconnectSoon()
    })
  }
  const reconnectSoon = (afterMs = Math.min(LONGEST_RETRY_MS, RETRY_MS * 2 ** failures)) => {
    if (reconnecting !== undefined) return
    failures += 1
    stream?.close()
    stream = undefined
    // Spread out, so that not every open page reconnects at the same moment.
    reconnecting = setTimeout(connect, afterMs * (1 + Math.random() / 2))
  }

  document.addEventListener('visibilitychange', () => {
    if (document.hidden) {
      stream?.close()
      stream = undefined
      reconnectSoon(HIDDEN_PERIOD_MS)
    } else {
      listener.shown()
      connect()
    }
  })
  addEventListener('online', connect)
  addEventListener('offline', () => statusAsked.go())
  // A page restored from the back/forward cache has lost its stream.
  addEventListener('pageshow', event => {
    if (event.persisted) connect()
  })
  addEventListener('pagehide', () => stream?.close())
  setInterval(() => {
    if (!document.hidden && stream !== undefined && performance.now() - lastHeard > SILENCE_MS) connect()
  }, 5000)
  setInterval(() => {
    if (contact.isLost || document.hidden) return
    listener.minutePassed()
    restAsked.soon()
  }, MINUTE_MS)
  return { askAll, connect }
}
