import { readFileSync } from 'node:fs'
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

/** The files that TLS towards the clients is made of; none for plain HTTP. */
export function tlsFiles({ certFile, keyFile, clientCaFile }: TlsFiles): readonly string[] {
  if (certFile === undefined || keyFile === undefined) return []
  return clientCaFile === undefined ? [certFile, keyFile] : [certFile, keyFile, clientCaFile]
}

/**
 * Serves the connections that come after this call with these contents of the files. Older connections go on.
 *
 * @param read gives the text of a file.
 * @throws when certificate and key do not belong together. Then nothing changes.
 */
export function renewTls(server: Server, files: TlsFiles, read: (file: string) => string): void {
  if (!(server instanceof HttpsServer)) return
  const context = contextOf(files, read)
  createSecureContext(context)
  server.setSecureContext({ ...context, minVersion: 'TLSv1.2' })
}

function contextOf(
  { certFile, keyFile, clientCaFile }: TlsFiles,
  read = (file: string) => readFileSync(file, 'utf8'),
): SecureContextOptions {
  return {
    ...(certFile !== undefined && { cert: read(certFile) }),
    ...(keyFile !== undefined && { key: read(keyFile) }),
    ...(clientCaFile !== undefined && { ca: read(clientCaFile) }),
  }
}
