import { formatsOf } from './formats.js'
import { english } from './messages-en.js'
import { hebrew } from './messages-he.js'

/** @import { Messages } from './messages-en.js' */

/**
 * The languages of the pages. To add one, write its catalogue (`messages-….js`), and name it here and in
 * `src/routes/page-route.ts`, which declares it in the document for clients that prefer it.
 */
const LANGUAGES = /** @type {const} */ ([
  { code: 'en', direction: 'ltr', locale: 'en-GB', messagesOf: english },
  { code: 'he', direction: 'rtl', locale: 'he-IL', messagesOf: hebrew },
])

/** The parameter of the URL, and the name in the browser's storage. */
const PARAMETER = 'lang'
const STORED = 'focus-breaker.language'

/** Accessing the storage throws if the browser forbids it. @returns {string | null} */
const remembered = () => {
  try {
    return localStorage.getItem(STORED)
  } catch {
    return null
  }
}

/** @param {string} code */
const isRemembered = code => {
  try {
    localStorage.setItem(STORED, code)
    return true
  } catch {
    return false
  }
}

const inUrl = new URLSearchParams(location.search).get(PARAMETER)

/**
 * The language in the link takes precedence, then the one that the visitor chose here, then those that the browser
 * accepts.
 */
const chosen =
  [inUrl, remembered(), document.documentElement.lang]
    .map(wanted => LANGUAGES.find(({ code }) => code === wanted))
    .find(language => language !== undefined) ?? LANGUAGES[0]

/**
 * Whether `Intl` takes the tag. A browser can report one that is invalid, such as `en-US@posix`.
 *
 * @param {string} tag
 */
const isLanguageTag = tag => {
  try {
    return Intl.getCanonicalLocales(tag).length === 1
  } catch {
    return false
  }
}

const locale =
  navigator.languages.find(each => each.split('-')[0] === chosen.code && isLanguageTag(each)) ?? chosen.locale

/** Numbers, times and durations in the language of the page. */
export const formats = formatsOf(chosen.code, locale)

/** The texts in the language of the page. @type {Messages} */
export const text = chosen.messagesOf(formats)

/**
 * A relative URL of another page or of this one. It keeps the language of the current URL: without storage, nothing
 * else remembers it.
 *
 * @param {string} address
 */
export const inLanguage = address => {
  if (inUrl === null) return address
  const [path = '', hash] = address.split('#')
  const named = `${path}${path.includes('?') ? '&' : '?'}${PARAMETER}=${chosen.code}`
  return hash === undefined ? named : `${named}#${hash}`
}

// A page from the back/forward cache is in the language that it had: the visitor may have chosen another one since.
addEventListener('pageshow', event => {
  const wanted = event.persisted && inUrl === null ? remembered() : null
  if (LANGUAGES.some(each => each !== chosen && each.code === wanted)) location.reload()
})

/**
 * Writes the fixed texts into the document, and the links to the other languages. `data-text` names the text of an
 * element, `data-label` its `aria-label`; `data-page` marks a link to another page.
 */
export const writeTexts = () => {
  const { documentElement: root } = document
  root.lang = chosen.code
  root.dir = chosen.direction
  /** @type {Record<string, unknown>} */
  const texts = text
  for (const each of document.querySelectorAll('[data-text]')) {
    each.textContent = String(texts[each.getAttribute('data-text') ?? ''] ?? '')
  }
  for (const each of document.querySelectorAll('[data-label]')) {
    each.setAttribute('aria-label', String(texts[each.getAttribute('data-label') ?? ''] ?? ''))
  }
  for (const each of document.querySelectorAll('a[data-page]')) {
    each.setAttribute('href', inLanguage(each.getAttribute('href') ?? ''))
  }
  document
    .querySelector('#languages')
    ?.replaceChildren(...LANGUAGES.filter(each => each !== chosen).map(switchTo))
}

/**
 * A link that shows the page in another language. If the browser can remember the choice, the URL is unchanged;
 * otherwise the URL contains the choice.
 *
 * @param {(typeof LANGUAGES)[number]} language
 */
const switchTo = ({ code, direction, messagesOf }) => {
  const address = (/** @type {boolean} */ isNamed) => {
    const url = new URL(location.href)
    if (isNamed) url.searchParams.set(PARAMETER, code)
    else url.searchParams.delete(PARAMETER)
    return url.href
  }
  const link = document.createElement('a')
  link.lang = code
  link.hreflang = code
  link.dir = direction
  link.href = address(true)
  link.append(messagesOf(formatsOf(code, code)).languageName)
  link.addEventListener('click', event => {
    // The browser opens it elsewhere: a new tab, a new window, a download.
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return
    // The URL may have changed since: an open outage is in it.
    link.href = address(true)
    if (!isRemembered(code)) return
    event.preventDefault()
    const plain = address(false)
    if (plain === location.href) location.reload()
    else location.replace(plain)
  })
  return link
}
