/** @import { Parts } from './messages-en.js' */
import { formats, text } from './language.js'
import { now } from './live.js'

const { count, duration, fullTime, moment, momentWithSeconds } = formats

/** @typedef {string | Node} Child */

/**
 * The element with an id. If the document does not have it (it may be of an older version), a detached one.
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

// Data becomes text through append() only, never markup.

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
/** A text of focus-breaker itself, which writes English on every page. @param {string} words */
export const bdiEnglish = words => element('bdi', { lang: 'en' }, words)
/** @param {string} words */
export const strong = words => element('strong', {}, words)
/** @param {readonly Child[]} cells */
export const row = (...cells) => element('tr', {}, ...cells)
/** @param {readonly Child[]} children */
export const cell = (...children) => element('td', {}, ...children)
/** @param {number} value */
export const number = value => element('td', { class: 'number' }, count(value))
/**
 * The number of requests that would have been refused. The column is shown only if observe mode was on.
 *
 * @param {number | undefined} value
 */
export const observed = (value = 0) => element('td', { class: 'number observed' }, count(value))
/** @param {readonly Child[]} children */
export const rowHead = (...children) => element('th', { scope: 'row' }, ...children)

/**
 * @param {string} iso
 * @param {string} [words]
 */
export const time = (iso, words) =>
  element('time', { datetime: iso, title: fullTime(iso) }, words ?? moment(Date.parse(iso), now()))

/** @param {string} iso */
export const timeWithSeconds = iso => time(iso, momentWithSeconds(Date.parse(iso), now()))

/** @typedef {'for' | 'until' | 'ago'} Way How a running duration counts: since a time, until a time, or as an age. */

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
  if (way === 'until') return duration(-passed)
  return way === 'ago' ? text.ago(duration(passed)) : duration(passed)
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
 * Makes the children of one element like those of another. Equal nodes are kept, so the focus, a selection, an open
 * `details` and a scroll position survive. Nodes with the same `data-key` correspond to each other and keep their order.
 *
 * @param {Element} present
 * @param {Element} wanted
 */
const morph = (present, wanted) => {
  /** @param {Node | null} node */
  const keyOf = node => (node instanceof Element ? node.getAttribute('data-key') : null)
  /** @type {(node: ChildNode | null, key: string) => boolean} */
  const isAhead = (node, key) => node !== null && (keyOf(node) === key || isAhead(node.nextSibling, key))
  const wantedKeys = new Set([...wanted.childNodes].map(keyOf))
  let next = present.firstChild
  for (const child of [...wanted.childNodes]) {
    const key = keyOf(child)
    if (key !== null && isAhead(next, key)) {
      // The nodes before it are gone, or will be inserted again.
      while (next !== null && keyOf(next) !== key) {
        const gone = next
        next = next.nextSibling
        gone.remove()
      }
    }
    const current = next
    const currentKey = keyOf(current)
    // A node of another key that is still wanted is kept for it.
    if (current === null || (currentKey !== key && currentKey !== null && wantedKeys.has(currentKey))) {
      present.insertBefore(child, current)
    } else {
      next = current.nextSibling
      morphNode(current, child)
    }
  }
  while (next !== null) {
    const gone = next
    next = next.nextSibling
    gone.remove()
  }
}

/**
 * @param {ChildNode} present
 * @param {ChildNode} wanted
 */
const morphNode = (present, wanted) => {
  if (present.nodeName !== wanted.nodeName) present.replaceWith(wanted)
  else if (present instanceof Element && wanted instanceof Element) {
    for (const { name } of [...present.attributes]) {
      // The browser sets `open` and the page sets `tabindex` on displayed elements only.
      if (!wanted.hasAttribute(name) && !(name === 'open' || name === 'tabindex'))
        present.removeAttribute(name)
    }
    for (const { name, value } of [...wanted.attributes]) {
      if (present.getAttribute(name) === value) continue
      // The content security policy forbids style attributes, but not the style object.
      if (name === 'style' && present instanceof HTMLElement) present.style.cssText = value
      else present.setAttribute(name, value)
    }
    morph(present, wanted)
  } else if (present.nodeValue !== wanted.nodeValue) present.nodeValue = wanted.nodeValue
}

/**
 * Sets the content of an element. Unchanged parts are not touched.
 *
 * @param {Element} parent
 * @param {readonly Child[]} children
 */
export const fill = (parent, ...children) => {
  const wanted = document.createElement('div')
  wanted.append(...children)
  wanted.normalize()
  morph(parent, wanted)
}

/**
 * Sets the content of the element with an id.
 *
 * @param {string} id
 * @param {readonly Child[]} children
 */
export const put = (id, ...children) => fill($(id), ...children)

/**
 * @param {string} id
 * @param {boolean} isShown
 */
export const show = (id, isShown) => {
  $(id).hidden = !isShown
}

/** Makes a region focusable only while there is something to scroll. */
export const noteOverflow = () => {
  for (const region of document.querySelectorAll('.scroll')) {
    const overflows = region.scrollWidth > region.clientWidth || region.scrollHeight > region.clientHeight
    if (overflows) region.setAttribute('tabindex', '0')
    else if (document.activeElement !== region) region.removeAttribute('tabindex')
  }
}
