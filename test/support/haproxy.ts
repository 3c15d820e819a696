import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { freePort, startProgram, until } from './harness.js'

/** Starts HAProxy on a free port of loopback in front of this port, until the test ends. */
export function startHaproxy(t: TestContext, upstreamPort: number): Promise<number> {
  return runHaproxy(t, `  server one 127.0.0.1:${upstreamPort}\n`)
}

/**
 * The same in front of several replicas, used in turn. A replica that fails its health checks gets no more requests,
 * and requests queued for it fail. The header `X-Replica` of a response names the replica; `r0` is the first.
 */
export function startBalancer(t: TestContext, ports: readonly number[]): Promise<number> {
  return runHaproxy(
    t,
    `  balance roundrobin
  option httpchk GET /-/live
  option redispatch
  default-server inter 200ms fall 3 rise 1 on-marked-down shutdown-sessions
  timeout check 1s
  http-response set-header X-Replica %s
${ports.map((port, index) => `  server r${index} 127.0.0.1:${port} check\n`).join('')}`,
  )
}

async function runHaproxy(t: TestContext, servers: string): Promise<number> {
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-haproxy-'))
  t.after(() => rmSync(directory, { recursive: true }))
  const port = await freePort()
  const file = join(directory, 'haproxy.cfg')
  writeFileSync(
    file,
    `defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
listen any
  bind 127.0.0.1:${port}
${servers}`,
  )
  await startProgram(t, {
    command: '/usr/sbin/haproxy',
    // It prints nothing when it is ready; because of -V it prints this line at once.
    args: ['-db', '-V', '-f', file],
    readyWhen: line => (/Available polling systems|Using \w+ as the polling/.test(line) ? true : undefined),
  })
  // It prints the line before it listens.
  await until(() => listens(port), { what: 'HAProxy listens' })
  return port
}

/** Checks that something listens on this port of loopback; rejects if nothing does. */
export async function listens(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1')
  await once(socket, 'connect')
  socket.destroy()
  return true
}
