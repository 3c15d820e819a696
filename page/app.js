/** @import { Known } from './shapes.d.ts' */
import { drawClients, drawCounts, drawOutages, drawReading } from './cards.js'
import { $, noteOverflow, put, show, time, updateRunning, writeTexts } from './dom.js'
import { clockWithSeconds } from './format.js'
import { drawHero, drawTab } from './hero.js'
import { startLive } from './live.js'
import { text } from './messages.js'
import { drawEnd, drawOperator, startOperator } from './operator.js'
import { readOpenOutage, startOutages } from './outage.js'
import { drawPast } from './past.js'
import { contact, known, now } from './state.js'

/** A second that took longer than this was sleep. */
const SLEPT_MS = 10_000

/** What is drawn when the JSON of a route arrives. @type {Record<keyof Known, readonly (() => void)[]>} */
const DRAWINGS = {
  status: [drawHero, drawReading, drawCounts, drawClients, () => show('now', true)],
  history: [drawPast, drawCounts],
  outages: [drawOutages, drawPast],
  clients: [drawClients, drawHero],
  override: [drawOperator],
}

/**
 * Draws one part. If it fails, the error is in the console and the other parts are drawn all the same.
 *
 * @param {() => void} part
 */
const draw = part => {
  try {
    part()
  } catch (error) {
    console.error(error)
  }
}

const drawContact = () => {
  const { isLost, lastAt, aheadMs } = contact
  const state = isLost ? 'lost' : lastAt === 0 ? 'none' : 'live'
  const shown = $('contact')
  $('banner').classList.toggle('stale', isLost)
  if (shown.dataset.contact === state) return
  shown.dataset.contact = state
  if (state === 'live') put('contact', text.live)
  else if (lastAt === 0) put('contact', text.noContact)
  else {
    const at = lastAt + aheadMs
    const words = document.createElement('span')
    words.append(...text.noContactSince(time(new Date(at).toISOString(), clockWithSeconds(at))))
    put('contact', words)
  }
  drawTab()
}

const redrawOutages = () => {
  draw(drawOutages)
  noteOverflow()
}

let tickedAt = Date.now()

writeTexts()
put('contact', text.connecting)
put('headline', text.connecting)
const { askAll, connect } = startLive({
  arrived: name => {
    for (const part of DRAWINGS[name]) draw(part)
  },
  roundOver: () => {
    draw(drawHero)
    noteOverflow()
  },
  restOver: () => readOpenOutage(redrawOutages),
  contactChanged: isMade => {
    draw(drawContact)
    if (isMade) put('updated', ...text.asOf(time(new Date(now()).toISOString(), clockWithSeconds(now()))))
  },
  minutePassed: () => {
    draw(drawPast)
    draw(drawClients)
  },
  shown: () => {
    // Timers of a tab in the background are as rare as in sleep.
    tickedAt = Date.now()
  },
})
startOperator(askAll)
startOutages(redrawOutages)

setInterval(() => {
  // A computer that slept has received nothing meanwhile, whatever its connections look like.
  const hasSlept = Date.now() - tickedAt > SLEPT_MS
  tickedAt = Date.now()
  if (hasSlept && !document.hidden && contact.lastAt > 0) {
    contact.isLost = true
    drawContact()
    connect()
  }
  updateRunning()
  drawEnd()
}, 1000)

let width = 0
new ResizeObserver(([entry]) => {
  noteOverflow()
  if (entry === undefined || entry.contentRect.width === width) return
  width = entry.contentRect.width
  draw(drawPast)
}).observe($('main'))
for (const each of document.querySelectorAll('details')) each.addEventListener('toggle', noteOverflow)
if (known.status === null) connect()
