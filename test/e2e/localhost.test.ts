import assert from 'node:assert/strict'
import { copyFileSync, writeFileSync } from 'node:fs'
import { type TestContext, test } from 'node:test'
import { connect } from 'node:tls'
import { addressesOf } from '../../src/server/listen.js'
import { programMain, requireOrSkip, startProgram, until } from '../support/harness.js'
import { directoryFor, unshareOrSkip } from '../support/outputs.js'
import { selfSigned } from '../support/self-signed.js'

/** Runs `serve`; returns the log line that says where it listens. */
function start(t: TestContext, args: readonly string[], before: readonly string[] = []) {
  const [command = '', ...rest] = [...before, process.execPath, programMain, 'serve']
  return startProgram(t, {
    command,
    args: [...rest, '--upstream', 'http://127.0.0.1:1', '--port', '0', ...args],
    env: { PATH: process.env.PATH },
    readyWhen: line => {
      const parsed: unknown = line.startsWith('{') ? JSON.parse(line) : {}
      if (Reflect.get(Object(parsed), 'msg') !== 'listening') return undefined
      const [url, more]: readonly unknown[] = ['url', 'moreUrls'].map(name =>
        Reflect.get(Object(parsed), name),
      )
      return [String(url), ...(Array.isArray(more) ? more.map(String) : [])]
    },
  })
}

/** The fingerprint of the certificate on that address. */
function fingerprintAt(url: string): Promise<string> {
  const { hostname, port } = new URL(url)
  return new Promise((resolve, reject) => {
    const host = hostname.replace(/[[\]]/g, '')
    const socket = connect({ host, port: Number(port), rejectUnauthorized: false }, () => {
      resolve(socket.getPeerCertificate().fingerprint256)
      socket.destroy()
    })
    socket.once('error', reject)
  })
}

test('serve --host localhost uses a renewed certificate on both addresses, and exits with 0', async t => {
  if (!requireOrSkip(t, 'openssl')) return
  if ((await addressesOf('localhost')).length < 2)
    return t.skip('localhost has only one address on this machine')
  const [first, second] = [selfSigned(t), selfSigned(t)]
  const file = `${directoryFor(t)}/config.json`
  const { certFile, keyFile } = first
  writeFileSync(file, JSON.stringify({ server: { tls: { certFile, keyFile } } }))
  const { ready: urls, pid, stop } = await start(t, ['--config', file, '--host', 'localhost'])
  const port = new URL(urls[0] ?? '').port
  assert.deepEqual(urls, [`https://127.0.0.1:${port}`, `https://[::1]:${port}`])
  const shown = () => Promise.all(urls.map(fingerprintAt))
  const [before, ...others] = await shown()
  assert.deepEqual(others, [before])
  copyFileSync(second.certFile, certFile)
  copyFileSync(second.keyFile, keyFile)
  process.kill(pid, 'SIGHUP')
  await until(async () => (await shown()).every(each => each !== before))
  assert.equal(new Set(await shown()).size, 1)
  assert.equal(await stop(), 0)
})

test('addresses of the host name that do not belong to this machine are skipped', async t => {
  const hosts = `${directoryFor(t)}/hosts`
  writeFileSync(hosts, '192.0.2.1 several.example\n127.0.0.1 several.example\n192.0.2.1 elsewhere.example\n')
  const words = ['-r', '-m', 'sh', '-c', `mount --bind ${hosts} /etc/hosts && exec "$@"`, 'sh']
  if (!unshareOrSkip(t, ...words, 'true')) return
  const { ready: urls, stop } = await start(t, ['--host', 'several.example'], ['unshare', ...words])
  assert.match(urls.join(), /^http:\/\/127\.0\.0\.1:\d+$/)
  assert.equal((await fetch(`${urls[0]}/-/live`)).status, 200)
  assert.equal(await stop(), 0)
  await assert.rejects(
    start(t, ['--host', 'elsewhere.example'], ['unshare', ...words]),
    /ended with 2\. [\s\S]*server\.host: expected an address of this machine; given elsewhere\.example$/,
  )
})
