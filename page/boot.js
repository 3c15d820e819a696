/**
 * Starts the page. While one replica is older than another, the scripts of two versions can meet and not fit together.
 * The page then loads itself again: caches ask for every script each time, so it soon gets all of one version.
 */
const RELOAD_MS = 5000

import('./app.js').catch(error => {
  console.error(error)
  setTimeout(() => location.reload(), RELOAD_MS)
})
