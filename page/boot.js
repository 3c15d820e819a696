/**
 * Starts the page or the report. During an upgrade of replicas, a browser can load scripts of two versions that do not
 * fit together. The page then reloads: caches revalidate every script, so it soon gets all of them in one version.
 */
const RELOAD_MS = 5000

const isReport = document.body.classList.contains('report')
const loaded = isReport ? import('./report.js') : import('./app.js')
loaded.catch(error => {
  console.error(error)
  setTimeout(() => location.reload(), RELOAD_MS)
})
