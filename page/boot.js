/**
 * Starts the page. During an upgrade of replicas, a browser can load scripts of two versions that do not fit together.
 * The page then reloads: caches revalidate every script, so it soon gets all of them in one version.
 */
const RELOAD_MS = 5000

import('./app.js').catch(error => {
  console.error(error)
  setTimeout(() => location.reload(), RELOAD_MS)
})
