import { Agent, request } from 'undici'
import { loadFor } from './serve.js'

/**
 * For `HEALTHCHECK` of a container: asks `/-/live` where the configuration of the environment says that the
 * proxy listens, and exits with 0 when it answers, else with 1. The certificate is our own, so nobody vouches.
 */
async function main(): Promise<number> {
  const loaded = loadFor({ flags: new Map(), faults: [] }, process.env)
  if (!loaded.ok) return 1
  const { host, port, tls } = loaded.config.server
  const address = host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '::1' : host
  const scheme = tls.certFile === undefined ? 'http' : 'https'
  const authority = address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`
  const answer = await request(`${scheme}://${authority}/-/live`, {
    dispatcher: new Agent({ connect: { rejectUnauthorized: false } }),
    signal: AbortSignal.timeout(2000),
  })
  return answer.statusCode === 200 ? 0 : 1
}

main().then(
  code => process.exit(code),
  () => process.exit(1),
)
