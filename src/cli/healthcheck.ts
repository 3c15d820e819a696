import { readdirSync, readFileSync, readlinkSync, realpathSync } from 'node:fs'
import { connect, isIP, type Socket } from 'node:net'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

/**
 * The `HEALTHCHECK` of a container. It requests `/-/live` from the running proxy, and exits with 0 if the proxy
 * responds with 200 and with 1 otherwise. An argument, if given, is the URL to request instead.
 *
 * The listening sockets of the proxy are read from /proc. This works however the proxy was configured (flags, file,
 * environment), for a port that the system chose, and for several processes on one machine. It needs no file written by
 * the proxy, so the root file system of the container may be read-only. This file loads only what it needs, because it
 * runs every ten seconds in the memory that the proxy leaves free. It writes its request to a socket, because
 * `node:http` needs 7 MiB.
 */

const TIMEOUT_MS = 2000

/** The state of a listening socket in /proc/net/tcp. */
const LISTENING = '0A'

/** The length of a status line up to its code and one more character. */
const STATUS_LINE_LENGTH = 13

type Outcome = { readonly isLive: boolean; readonly words: string }

/** The processes that run the proxy. If the first process of the container is one of them, only that one. */
function proxies(): readonly number[] {
  const main = realpathSync(join(fileURLToPath(import.meta.url), '../main.js'))
  const pids = readdirSync('/proc').flatMap(name => (/^\d+$/.test(name) ? [Number(name)] : []))
  const found = pids.filter(pid => runsProxy(pid, main))
  return found.includes(1) ? [1] : found
}

function runsProxy(pid: number, main: string): boolean {
  try {
    // The init process of a container (tini) and other wrappers have the same command line but do not listen.
    if (!isSame(`/proc/${pid}/exe`, realpathSync(process.execPath))) return false
    const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')
    const directory = readlinkSync(`/proc/${pid}/cwd`)
    const at = words.findIndex(word => word !== '' && isSame(resolve(directory, word), main))
    return at >= 1 && !['simulate', 'check', 'wait'].includes(words[at + 1] ?? '')
  } catch {
    // It has ended, or belongs to another user.
    return false
  }
}

function isSame(file: string, other: string): boolean {
  try {
    return realpathSync(file) === other
  } catch {
    return false
  }
}

/** The addresses that the process listens on, each as the host and port of a URL. */
function listenersOf(pid: number): readonly string[] {
  const sockets = new Set(
    readdirSync(`/proc/${pid}/fd`).flatMap(descriptor => {
      try {
        return /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${descriptor}`))?.[1] ?? []
      } catch {
        // It has been closed since.
        return []
      }
    }),
  )
  return ['tcp', 'tcp6'].flatMap(table => {
    let text = ''
    try {
      text = readFileSync(`/proc/${pid}/net/${table}`, 'utf8')
    } catch {
      // A kernel without IPv6.
    }
    return text.split('\n').flatMap(line => {
      const [, local = '', , state, , , , , , inode = ''] = line.trim().split(/\s+/)
      return state === LISTENING && sockets.has(inode) ? [authorityOf(local)] : []
    })
  })
}

/** `0100007F:1F90` is 127.0.0.1:8080: four-byte words in the byte order of the machine, assumed to be little-endian. */
function authorityOf(local: string): string {
  const [address = '', port = ''] = local.split(':')
  const bytes = (address.match(/.{8}/g) ?? []).flatMap(word =>
    (word.match(/../g) ?? []).toReversed().map(hex => Number.parseInt(hex, 16)),
  )
  const isAny = bytes.every(byte => byte === 0)
  const pairs = Array.from({ length: bytes.length / 2 }, (_, index) =>
    ((bytes[2 * index] ?? 0) * 256 + (bytes[2 * index + 1] ?? 0)).toString(16),
  )
  const isIPv4 = bytes.length === 4
  const shown = isIPv4 ? (isAny ? '127.0.0.1' : bytes.join('.')) : isAny ? '[::1]' : `[${pairs.join(':')}]`
  return `${shown}:${Number.parseInt(port, 16)}`
}

/** Opens a connection to a server. */
type Connect = (host: string, port: number) => Socket

const connectPlain: Connect = (host, port) => connect({ host, port })

/**
 * The certificate is not verified, because the health check asks its own proxy. TLS is loaded only when it is needed.
 */
async function loadTls(): Promise<Connect> {
  const tls = await import('node:tls')
  return (host, port) =>
    tls.connect({ host, port, rejectUnauthorized: false, servername: isIP(host) === 0 ? host : '' })
}

function askFor(address: string, connectTo: Connect): Promise<Outcome> {
  return new Promise(settle => {
    const { protocol, hostname, port, host, pathname, search } = new URL(address)
    const defaultPort = protocol === 'https:' ? 443 : 80
    const socket = connectTo(
      hostname.replace(/^\[|\]$/g, ''),
      port === '' ? defaultPort : Number(port),
    ).setEncoding('latin1')
    const end = (isLive: boolean, words: string) => {
      clearTimeout(timer)
      settle({ isLive, words: `${address} ${words}` })
      socket.destroy()
    }
    const timer = setTimeout(() => end(false, `did not respond in ${TIMEOUT_MS} ms`), TIMEOUT_MS)
    let head = ''
    socket.on('data', (text: string) => {
      head += text
      const status = /^HTTP\/1\.\d (\d{3})\b/.exec(head)?.[1]
      if (status !== undefined) end(status === '200', `responded with ${status}`)
      else if (head.length >= STATUS_LINE_LENGTH) end(false, 'failed: the response is not HTTP')
    })
    socket.on('end', () => end(false, 'failed: the connection was closed without a response'))
    socket.on('error', (error: NodeJS.ErrnoException) => {
      const code = error.code ?? error.message
      // A process can request a certificate only if its event loop is running.
      const asksForCertificate = code === 'ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED'
      const words = asksForCertificate
        ? 'requires a client certificate, so the proxy is running. For a full check, set server.healthPort.'
        : `failed: ${code}`
      end(asksForCertificate, words)
    })
    socket.write(`GET ${pathname}${search} HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`)
  })
}

async function check(): Promise<Outcome> {
  const [, , url] = process.argv
  if (url !== undefined) return askFor(url, url.startsWith('https:') ? await loadTls() : connectPlain)
  const pids = proxies()
  if (pids.length === 0) return { isLive: false, words: 'no running proxy found' }
  const outcomes = await Promise.all(pids.map(checkProcess))
  return {
    isLive: outcomes.every(({ isLive }) => isLive),
    words: outcomes.map(({ words }) => words).join('\n'),
  }
}

/**
 * A process is live if one of its listeners responds: `server.healthPort` does so even when `server.maxConnections` is
 * reached.
 */
async function checkProcess(pid: number): Promise<Outcome> {
  const authorities = listenersOf(pid)
  if (authorities.length === 0) return { isLive: false, words: `process ${pid} does not listen on any port` }
  const plain = await askAll('http', authorities, connectPlain)
  if (plain.isLive) return plain
  const secure = await askAll('https', authorities, await loadTls())
  if (secure.isLive) return secure
  const hint = 'If the proxy is at its connection limit, set server.healthPort.'
  return { isLive: false, words: [plain.words, secure.words, hint].join('\n') }
}

async function askAll(
  scheme: 'http' | 'https',
  authorities: readonly string[],
  connectTo: Connect,
): Promise<Outcome> {
  const outcomes = await Promise.all(
    authorities.map(authority => askFor(`${scheme}://${authority}/-/live`, connectTo)),
  )
  const words = outcomes.map(outcome => outcome.words).join('\n')
  return outcomes.find(({ isLive }) => isLive) ?? { isLive: false, words }
}

check().then(
  ({ isLive, words }) => {
    process.stdout.write(`${words}\n`)
    process.exitCode = isLive ? 0 : 1
  },
  (error: unknown) => {
    process.stdout.write(`health check failed: ${error instanceof Error ? error.message : error}\n`)
    process.exitCode = 1
  },
)
