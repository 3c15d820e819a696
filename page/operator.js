/** @import { Override, PastOverride } from './shapes.d.ts' */
/** @import { Parts } from './messages-en.js' */
import { $, bdi, bdiEnglish, cell, input, put, row, rowHead, show, strong, time, until } from './dom.js'
import { formats, text } from './language.js'
import { known, now } from './live.js'

const TIMEOUT_MS = 10_000
const MINUTE_MS = 60_000

/** @param {Override} override */
const actionOf = ({ state, silent }) =>
  silent ? text.maintenance : state === 'open' ? text.stop : text.letAllThrough

/**
 * The phase that an override sets.
 *
 * @param {Override} override
 */
export const phaseOfOverride = ({ state, silent }) =>
  state === 'closed' ? 'let-through' : silent ? 'maintenance' : 'stopped'

/**
 * When and how an override ended. One that has not ended, or that an older focus-breaker reports, has a planned end.
 *
 * @param {PastOverride} override
 * @returns {Parts}
 */
export const overrideEnd = ({ until: planned, endedAt, end, endedBy = null }) =>
  text.overrideEnd(time(endedAt ?? planned), end ?? undefined, endedBy === null ? undefined : bdi(endedBy))

/** Draws the card with the override, its form, and the earlier ones. */
export const drawOperator = () => {
  if (known.override === null) return
  const { override, history, changeable, kept } = known.override
  show('not-kept', changeable && !kept)
  show('operator', changeable || override !== null || history.length > 0)
  put(
    'standing',
    ...(override === null
      ? [text.noOverride]
      : text.standing(strong(actionOf(override)), until(override.until), bdi(override.reason))),
  )
  show('form', changeable)
  // The focus must not be lost when the focused button disappears.
  if (override === null && document.activeElement === $('remove')) $('token').focus()
  show('remove', override !== null && override.by !== 'override.file')
  show('words', history.length > 0)
  put(
    'words-rows',
    ...history.map(each =>
      row(
        rowHead(time(each.since)),
        cell(...overrideEnd(each)),
        cell(actionOf(each)),
        cell(bdi(each.reason)),
        cell(bdi(each.by)),
      ),
    ),
  )
}

/** Shows when an override set now would end. */
export const drawEnd = () => {
  const minutes = Number(input('minutes').value)
  const isUsable = Number.isInteger(minutes) && minutes >= 1 && minutes <= 1440
  const words = isUsable ? text.endsAt(formats.clock(now() + minutes * MINUTE_MS)) : text.minutesInvalid
  if ($('ends').textContent !== words) put('ends', words)
}

/** @type {(is: 'pending' | 'done' | 'fault', ...words: readonly (string | Node)[]) => void} */
const showResult = (is, ...words) => {
  $('result').dataset.is = is
  put('result', ...words)
}

/**
 * The error in words; undefined if there was none.
 *
 * @param {Response} response
 * @returns {Promise<Parts | undefined>}
 */
const faultOf = async response => {
  if (response.ok) return undefined
  if (response.status === 401) return [text.wrongToken]
  if (response.status === 429) return [text.tooManyWrongTokens]
  if (response.status === 404) return [text.noTokenConfigured]
  /** @type {{ message?: unknown }} */
  const { message } = await response.json().catch(() => ({}))
  return text.nothingChanged(
    typeof message === 'string' ? bdiEnglish(message) : text.responseWas(response.status),
  )
}

/**
 * Handles the form.
 *
 * @param {() => void} onChange called after each response: the state may have changed
 */
export const startOperator = onChange => {
  let isSending = false
  /** @type {(method: 'PUT' | 'DELETE', body: object | undefined, done: string) => Promise<void>} */
  const send = async (method, body, done) => {
    if (isSending) return
    isSending = true
    const buttons = document.querySelectorAll('#form button')
    for (const button of buttons) button.setAttribute('aria-disabled', 'true')
    showResult('pending', text.sending)
    try {
      const authorization = `Bearer ${input('token').value}`
      const response = await fetch('override', {
        method,
        headers: { authorization, ...(body && { 'content-type': 'application/json' }) },
        ...(body && { body: JSON.stringify(body) }),
        signal: AbortSignal.timeout(TIMEOUT_MS),
      })
      const fault = await faultOf(response)
      if (fault === undefined) showResult('done', done)
      else showResult('fault', ...fault)
      if (response.status === 401) input('token').select()
    } catch {
      showResult('fault', text.noResponse)
    }
    isSending = false
    for (const button of buttons) button.removeAttribute('aria-disabled')
    onChange()
  }
  $('form').addEventListener('submit', event => {
    event.preventDefault()
    const chosen = document.querySelector('input[name="state"]:checked')
    const value = chosen instanceof HTMLInputElement ? chosen.value : 'open'
    const action = value === 'planned' ? { state: 'open', silent: true } : { state: value }
    const forSeconds = Number(input('minutes').value) * 60
    send('PUT', { ...action, reason: input('reason').value, forSeconds }, text.overrideSet)
  })
  $('remove').addEventListener('click', () => {
    if (input('token').reportValidity()) send('DELETE', undefined, text.overrideRemoved)
  })
  $('minutes').addEventListener('input', drawEnd)
  drawEnd()
}
