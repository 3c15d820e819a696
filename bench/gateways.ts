import { spawnSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import type { Children, Peer } from './children.js'

/** A gateway that is not a Node program, and how to run it as a single process without logs. */
type Gateway = {
  readonly name: string
  readonly program: string
  readonly version: RegExp
  readonly config: (port: number, upstream: string, directory: string) => string
  readonly args: (configFile: string, directory: string) => readonly string[]
}

const HAPROXY: Gateway = {
  name: 'HAProxy',
  program: '/usr/sbin/haproxy',
  version: /version ([\d.]+)/,
  // -db: one process, in the foreground.
  args: configFile => ['-db', '-f', configFile],
  config: (port, upstream) => `
global
  nbthread 1
defaults
  mode http
  http-reuse always
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout http-keep-alive 60s
frontend clients
  bind 127.0.0.1:${port}
  default_backend upstream
backend upstream
  server upstream ${upstream}
`,
}

const NGINX: Gateway = {
  name: 'nginx',
  program: '/usr/sbin/nginx',
  version: /nginx\/([\d.]+)/,
  args: (configFile, directory) => ['-p', directory, '-e', 'stderr', '-c', configFile],
  config: (port, upstream, directory) => `
daemon off;
master_process off;
pid ${directory}/nginx.pid;
error_log stderr;
events {}
http {
  access_log off;
  client_body_temp_path ${directory}/body;
  proxy_temp_path ${directory}/proxy;
  fastcgi_temp_path ${directory}/fastcgi;
  uwsgi_temp_path ${directory}/uwsgi;
  scgi_temp_path ${directory}/scgi;
  client_max_body_size 0;
  keepalive_timeout 75s;
  keepalive_requests 1000000000;
  upstream focus_server {
    server ${upstream};
    keepalive 64;
    keepalive_requests 1000000000;
  }
  server {
    listen 127.0.0.1:${port};
    location / {
      proxy_pass http://focus_server;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }
  }
}
`,
}

/** Starts the gateways that are installed, and returns a line about each that is not. */
export async function startGateways(
  children: Children,
  upstreamUrl: string,
  directory: string,
  isWanted: (name: string) => boolean,
): Promise<{ readonly peers: readonly Peer[]; readonly leftOut: readonly string[] }> {
  const peers: Peer[] = []
  const leftOut: string[] = []
  for (const gateway of [HAPROXY, NGINX].filter(({ name }) => isWanted(name))) {
    const version = versionOf(gateway)
    if (version === undefined)
      leftOut.push(`${gateway.name} is left out: ${gateway.program} is not installed`)
    else {
      const server = await start(gateway, children, new URL(upstreamUrl).host, directory)
      peers.push({ name: `${gateway.name} ${version}`, server })
    }
  }
  return { peers, leftOut }
}

async function start(gateway: Gateway, children: Children, upstream: string, parent: string) {
  const directory = join(parent, gateway.name)
  const configFile = join(directory, 'config')
  const port = await freePort()
  mkdirSync(directory)
  writeFileSync(configFile, gateway.config(port, upstream, directory))
  return children.startProgram(gateway.program, gateway.args(configFile, directory), port)
}

function versionOf({ program, version }: Gateway): string | undefined {
  const { error, stdout, stderr } = spawnSync(program, ['-v'], { encoding: 'utf8' })
  return error === undefined ? (version.exec(stdout + stderr)?.[1] ?? 'of unknown version') : undefined
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const address = server.address()
      server.close(() => resolve(typeof address === 'object' && address !== null ? address.port : 0))
    })
  })
}
