/** @import { Known } from './shapes.d.ts' */
import { drawClients, drawCounts, drawOutages, drawPast, drawReading } from './cards.js'
import { $, noteOverflow, put, show, time, updateRunning } from './dom.js'
import { drawHero, drawTab } from './hero.js'
import { formats, text, writeTexts } from './language.js'
import { contact, known, now, startLive } from './live.js'
import { drawEnd, drawOperator, startOperator } from './operator.js'
import { readOpenOutage, startOutages } from './outage.js'

/** If the one-second timer took longer than this, the computer was asleep. */
const SLEPT_MS = 10_000

/** The parts to draw when the JSON of a route arrives. @type {Record<keyof Known, readonly (() => void)[]>} */
const DRAWINGS = {
  status: [drawHero, drawReading, drawCounts, drawClients, drawOutages, () => show('now', true)],
  history: [drawPast, drawCounts],
  outages: [drawOutages, drawPast],
  clients: [drawClients, drawHero],
  override: [drawOperator],
}

/**
 * Draws one part. An error goes to the console and does not stop the other parts.
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
    words.append(...text.noContactSince(time(new Date(at).toISOString(), formats.clockWithSeconds(at))))
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
    if (isMade)
      put('updated', ...text.asOf(time(new Date(now()).toISOString(), formats.clockWithSeconds(now()))))
  },
  minutePassed: () => {
    draw(drawPast)
    draw(drawClients)
  },
  shown: () => {
    // Browsers slow down the timers of a background tab, which would look like sleep.
    tickedAt = Date.now()
  },
})
startOperator(askAll)
startOutages(redrawOutages)
// As a link it would replace the part of the URL that keeps an outage open.
document.querySelector('.skip')?.addEventListener('click', event => {
  event.preventDefault()
  $('main').focus()
})

setInterval(() => {
  // A computer that slept has received nothing, whatever state its connections are in.
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
