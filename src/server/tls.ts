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

/** TLS files of the server. */
export type TlsFiles = {
  readonly certFile?: string
  readonly keyFile?: string
  /** CA certificates. Every client must present a certificate that one of them issued. */
  readonly clientCaFile?: string
}

/** Creates the server: HTTPS if there is a certificate, otherwise HTTP. Throws if a file cannot be read. */
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

/** Paths of the TLS files in use; empty for plain HTTP. */
export function tlsFiles({ certFile, keyFile, clientCaFile }: TlsFiles): readonly string[] {
  if (certFile === undefined || keyFile === undefined) return []
  return clientCaFile === undefined ? [certFile, keyFile] : [certFile, keyFile, clientCaFile]
}

/**
 * Uses the current contents of the files for new connections. Existing connections are not affected.
 *
 * @param read returns the text of a file.
 * @throws if certificate and key do not match. Nothing changes then.
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
