/** @import { Parts } from './messages.js' */
import { count, moment } from './format.js'
import { text } from './messages.js'
import { now } from './state.js'

/** @typedef {string | Node} Child */

/**
 * The element with an id. One that the document does not have (it may be of an older version) is made and not shown.
 *
 * @param {string} id
 * @returns {HTMLElement}
 */
export const $ = id => document.getElementById(id) ?? document.createElement('div')

/**
 * The form field with an id.
 *
 * @param {string} id
 * @returns {HTMLInputElement}
 */
export const input = id => {
  const found = $(id)
  return found instanceof HTMLInputElement ? found : document.createElement('input')
}

// Whatever comes from data becomes text, by append() only.

/**
 * @template {keyof HTMLElementTagNameMap} Name
 * @param {Name} name
 * @param {Readonly<Record<string, string>>} attributes
 * @param {readonly Child[]} children
 * @returns {HTMLElementTagNameMap[Name]}
 */
export const element = (name, attributes, ...children) => {
  const made = document.createElement(name)
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value)
  made.append(...children)
  return made
}

/**
 * @param {string} name
 * @param {Readonly<Record<string, string | number>>} attributes
 * @param {readonly Child[]} children
 * @returns {Element}
 */
export const svg = (name, attributes, ...children) => {
  const made = document.createElementNS('http://www.w3.org/2000/svg', name)
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value))
  made.append(...children)
  return made
}

/** @param {string} words */
export const bdi = words => element('bdi', {}, words)
/** @param {string} words */
export const strong = words => element('strong', {}, words)
/** @param {readonly Child[]} cells */
export const row = (...cells) => element('tr', {}, ...cells)
/** @param {readonly Child[]} children */
export const cell = (...children) => element('td', {}, ...children)
/** @param {number} value */
export const number = value => element('td', { class: 'number' }, count(value))
/** @param {readonly Child[]} children */
export const rowHead = (...children) => element('th', { scope: 'row' }, ...children)

/**
 * @param {string} iso
 * @param {string} [words]
 */
export const time = (iso, words) =>
  element('time', { datetime: iso, title: iso }, words ?? moment(Date.parse(iso), now()))

/** @typedef {'for' | 'until' | 'ago'} Way How a running time counts: since a time, until one, or as an age. */

/**
 * A duration that the page keeps up to date.
 *
 * @param {string} iso
 * @param {Way} way
 */
export const running = (iso, way) =>
  element('span', { 'data-from': iso, 'data-way': way }, runningWords(iso, way))

/**
 * @param {string} iso
 * @param {string | undefined} way
 */
const runningWords = (iso, way) => {
  const passed = now() - Date.parse(iso)
  if (way === 'until') return text.duration(-passed)
  return way === 'ago' ? text.ago(text.duration(passed)) : text.duration(passed)
}

/** Brings every running duration up to date. */
export const updateRunning = () => {
  for (const each of document.querySelectorAll('[data-from]')) {
    if (!(each instanceof HTMLElement)) continue
    const words = runningWords(each.dataset.from ?? '', each.dataset.way)
    if (each.textContent !== words) each.textContent = words
  }
}

/**
 * @param {string} iso
 * @returns {Parts}
 */
export const since = iso => text.since(time(iso), running(iso, 'for'))

/**
 * @param {string} iso
 * @returns {Parts}
 */
export const until = iso => text.until(time(iso), running(iso, 'until'))

/**
 * Sets the content of an element. Unchanged content stays as it is, so that a reader's selection does.
 *
 * @param {string} id
 * @param {readonly Child[]} children
 */
export const put = (id, ...children) => {
  const made = document.createElement('div')
  made.append(...children)
  if (made.innerHTML !== $(id).innerHTML) $(id).replaceChildren(...made.childNodes)
}

/**
 * @param {string} id
 * @param {boolean} isShown
 */
export const show = (id, isShown) => {
  $(id).hidden = !isShown
}

/** Writes the fixed texts into the document: `data-text` names the text, `data-label` that of `aria-label`. */
export const writeTexts = () => {
  document.documentElement.lang = text.language
  /** @type {Record<string, unknown>} */
  const texts = text
  for (const each of document.querySelectorAll('[data-text]')) {
    each.textContent = String(texts[each.getAttribute('data-text') ?? ''] ?? '')
  }
  for (const each of document.querySelectorAll('[data-label]')) {
    each.setAttribute('aria-label', String(texts[each.getAttribute('data-label') ?? ''] ?? ''))
  }
}
