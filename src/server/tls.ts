import { readFileSync, unwatchFile, watchFile } from 'node:fs'
import {
  createServer as createHttpServer,
  type RequestListener,
  type Server,
  type ServerOptions,
} from 'node:http'
import { createServer as createHttpsServer, Server as HttpsServer } from 'node:https'
import type { SecureContextOptions, TlsOptions } from 'node:tls'
import { createSecureContext } from 'node:tls'

/** The files of TLS towards the clients. */
export type TlsFiles = {
  readonly certFile?: string
  readonly keyFile?: string
  /** Authorities of which every client has to show a certificate. */
  readonly clientCaFile?: string
}

/** A renewed certificate is taken over within this time; a look costs one `stat` a file. */
const LOOK_EVERY_MS = 5000

/** The server: HTTPS when there is a certificate, else HTTP. Throws when a file cannot be read. */
export function createServer(
  files: TlsFiles,
  options: ServerOptions,
  handshakeTimeout: number,
  listener: RequestListener,
): Server {
  if (files.certFile === undefined || files.keyFile === undefined) return createHttpServer(options, listener)
  const client: TlsOptions =
    files.clientCaFile === undefined ? {} : { requestCert: true, rejectUnauthorized: true }
  const tls: TlsOptions = { ...contextOf(files), ...client, minVersion: 'TLSv1.2', handshakeTimeout }
  return createHttpsServer({ ...options, ...tls }, listener)
}

/**
 * Follows the files: a certificate that is renewed on disk serves the connections that come after it. Files
 * that do not fit each other, as in the middle of a renewal, change nothing.
 *
 * @param told of each renewal, or of why there was none.
 * @returns a function that stops it.
 */
export function followCertificate(
  server: Server,
  files: TlsFiles,
  told: (error?: Error) => void,
): () => void {
  if (!(server instanceof HttpsServer)) return () => undefined
  const renew = () => {
    try {
      const context = contextOf(files)
      createSecureContext(context)
      server.setSecureContext({ ...context, minVersion: 'TLSv1.2' })
      told()
    } catch (error) {
      told(error instanceof Error ? error : new Error(String(error)))
    }
  }
  const watched = Object.values(files)
  // Not `fs.watch`: a secret that Kubernetes mounts is renewed by another link, two directories above.
  for (const file of watched) watchFile(file, { interval: LOOK_EVERY_MS, persistent: false }, renew)
  return () => {
    for (const file of watched) unwatchFile(file, renew)
  }
}

function contextOf({ certFile, keyFile, clientCaFile }: TlsFiles): SecureContextOptions {
  return {
    ...(certFile !== undefined && { cert: readFileSync(certFile) }),
    ...(keyFile !== undefined && { key: readFileSync(keyFile) }),
    ...(clientCaFile !== undefined && { ca: readFileSync(clientCaFile) }),
  }
}
