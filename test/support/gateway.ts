import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { listens } from './haproxy.js'
import { freePort, startProgram, until } from './harness.js'

/** A gateway that has a recipe. */
export type GatewayName = 'nginx' | 'haproxy' | 'caddy'

/** What a recipe gives a gateway, as its page shows it. */
export type GatewayRecipe = {
  readonly gateway: GatewayName
  readonly configuration: string
  /** The script that HAProxy loads. */
  readonly lua?: string
}

/** The comment markers of lines that admit while the proxy is down. */
const OPEN_MARK = /#open /g

/** Another program may take a free port after we pick it and before the gateway binds it. */
const ATTEMPTS = 3

/**
 * Starts a gateway with the configuration of a recipe, on a free port of loopback, until the test ends; returns its
 * URL. `isOpen` uncomments the lines that admit while the proxy is down.
 */
export async function startGateway(
  t: TestContext,
  recipe: GatewayRecipe,
  site: { readonly proxy: string; readonly upstream: string; readonly isOpen?: boolean },
): Promise<string> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await start(t, recipe, site)
    } catch (error) {
      if (attempt === ATTEMPTS) throw error
    }
  }
}

async function start(
  t: TestContext,
  { gateway, configuration, lua = '' }: GatewayRecipe,
  { proxy, upstream, isOpen = false }: { proxy: string; upstream: string; isOpen?: boolean },
): Promise<string> {
  const directory = mkdtempSync(join(tmpdir(), `focus-breaker-${gateway}-`))
  t.after(() => rmSync(directory, { recursive: true, force: true }))
  const port = await freePort()
  const script = join(directory, 'focus-breaker.lua')
  const here: Readonly<Record<string, string>> = {
    'focus-breaker:8080': new URL(proxy).host,
    'focus-server:5000': new URL(upstream).host,
    'listen 80;': `listen 127.0.0.1:${port};`,
    'bind :80\n': `bind 127.0.0.1:${port}\n`,
    'http://focus-server.example.com {': `http://127.0.0.1:${port} {`,
    ':8090': `:${await freePort()}`,
    '/etc/haproxy/focus-breaker.lua': script,
    'inter 2s': 'inter 100ms',
    'health_interval 2s': 'health_interval 100ms',
    'inter 1s': 'inter 100ms',
  }
  const placed = (text: string) => {
    const chosen = isOpen ? text.replace(OPEN_MARK, '') : text
    return Object.entries(here).reduce((result, [example, real]) => result.replaceAll(example, real), chosen)
  }
  writeFileSync(script, placed(lua))
  const file = join(directory, 'gateway.conf')
  switch (gateway) {
    case 'nginx':
      writeFileSync(file, inNginx(directory, placed(configuration)))
      await startProgram(t, {
        command: '/usr/sbin/nginx',
        args: ['-p', directory, '-c', file],
        // Printed after the sockets are bound and listening.
        readyWhen: line => (line.includes('OS: ') ? true : undefined),
      })
      break
    case 'haproxy':
      writeFileSync(file, placed(configuration))
      await startProgram(t, {
        command: '/usr/sbin/haproxy',
        args: ['-db', '-V', '-f', file],
        // It prints nothing when it is ready; because of -V it prints this line at once.
        readyWhen: line =>
          /Available polling systems|Using \w+ as the polling/.test(line) ? true : undefined,
      })
      break
    case 'caddy':
      writeFileSync(file, `{\n\tadmin off\n\tauto_https off\n}\n${placed(configuration)}`)
      await startProgram(t, {
        command: '/usr/bin/caddy',
        args: ['run', '--config', file, '--adapter', 'caddyfile'],
        env: { ...process.env, HOME: directory, XDG_DATA_HOME: directory, XDG_CONFIG_HOME: directory },
        readyWhen: line => (line.includes('serving initial configuration') ? true : undefined),
      })
  }
  await until(() => listens(port), { what: `${gateway} listens` })
  return `http://127.0.0.1:${port}`
}

/** The configuration around the blocks of a page: one process that writes to its own directory only. */
function inNginx(directory: string, blocks: string): string {
  const paths = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
  return `
daemon off;
master_process off;
pid ${directory}/nginx.pid;
error_log stderr notice;
events { worker_connections 256; }
http {
  access_log off;
  ${paths.map(name => `${name}_temp_path ${directory}/${name};`).join('\n  ')}
${blocks}
}
`
}
