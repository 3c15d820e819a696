import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { freePort, startProgram } from './harness.js'

/** Another program may take the free port after we pick it and before nginx binds it. */
const ATTEMPTS = 3

/** A real nginx that publishes an upstream under `/focus-server`, as the cluster's ingress does. */
export interface Ingress {
  /** The address without the prefix. */
  readonly url: string
}

/**
 * Starts nginx on a free port of loopback until the test ends.
 *
 * The location and its rewrite are those that ingress-nginx writes for `rewrite-target: /$2`: matched
 * case-insensitively, on the path that nginx has decoded, merged and resolved. With `tls` it has a self-signed
 * certificate.
 */
export async function startIngress(
  t: TestContext,
  options: { readonly upstream: string; readonly tls?: boolean },
): Promise<Ingress> {
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-nginx-'))
  t.after(() => rmSync(directory, { recursive: true, force: true }))
  const tls = options.tls ?? false
  if (tls) selfSignedCertificate(directory)
  for (let attempt = 1; ; attempt++) {
    const port = await freePort()
    const file = join(directory, `nginx-${port}.conf`)
    writeFileSync(file, configuration({ directory, port, tls, upstream: options.upstream }))
    try {
      await startProgram(t, {
        command: '/usr/sbin/nginx',
        args: ['-p', directory, '-c', file],
        // Logged after the sockets are bound and listening.
        readyWhen: line => (line.includes('OS: ') ? true : undefined),
      })
      return { url: `${tls ? 'https' : 'http'}://127.0.0.1:${port}` }
    } catch (error) {
      if (attempt === ATTEMPTS) throw error
    }
  }
}

function configuration(site: {
  readonly directory: string
  readonly port: number
  readonly tls: boolean
  readonly upstream: string
}): string {
  const { directory, port, tls, upstream } = site
  const certificate = `ssl_certificate ${directory}/cert.pem; ssl_certificate_key ${directory}/key.pem;`
  return `
daemon off;
master_process off;
pid ${directory}/nginx-${port}.pid;
error_log stderr notice;
events { worker_connections 1024; }
http {
  access_log off;
  client_body_temp_path ${directory}/body;
  proxy_temp_path ${directory}/proxy;
  fastcgi_temp_path ${directory}/fastcgi;
  uwsgi_temp_path ${directory}/uwsgi;
  scgi_temp_path ${directory}/scgi;
  server {
    listen 127.0.0.1:${port}${tls ? ' ssl' : ''};
    ${tls ? certificate : ''}
    location ~* "^/focus-server(/|$)(.*)" {
      rewrite "(?i)/focus-server(/|$)(.*)" /$2 break;
      proxy_pass ${upstream};
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_set_header X-Real-IP $remote_addr;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Host $http_host;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_buffering off;
      proxy_redirect off;
    }
  }
}
`
}

function selfSignedCertificate(directory: string): void {
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  const files = ['-keyout', join(directory, 'key.pem'), '-out', join(directory, 'cert.pem')]
  execFileSync(
    '/usr/bin/openssl',
    ['req', '-x509', ...key, ...files, '-days', '2', '-subj', '/CN=focus.example'],
    { stdio: 'ignore' },
  )
}
