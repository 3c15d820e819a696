import { isWholePem } from '../config/consistency.js'
import type { Contents, FollowedFiles } from '../config/follow.js'
import { secretFiles } from '../config/load.js'
import { readYaml } from '../config/yaml.js'
import { parseDeclaredOverride } from '../domain/override.js'
import { renewTls, tlsFiles } from '../server/tls.js'
import { upstreamTlsFiles } from '../upstream/agent.js'
import type { Core } from './core.js'
import type { Server } from './server-stage.js'
import type { Upstream } from './upstream-stage.js'

/**
 * A stage: follows all files of the configuration.
 *
 * @returns a function that updates the followed secret files, because a reload may have named others.
 */
export function followFiles(core: Core, upstream: Upstream, { app }: Server): () => void {
  const { config, files, log } = core
  const readIn = (contents: Contents) => (file: string) => contents.get(file) ?? ''
  const certificate = (paths: readonly string[], renew: (contents: Contents) => void): FollowedFiles => ({
    files: paths,
    use: contents => {
      // OpenSSL would ignore an incomplete end of a list of certificate authorities.
      if (![...contents.values()].every(isWholePem)) throw new Error('a file is not a complete PEM file')
      renew(contents)
    },
    renewed: () => log.info({ files: paths }, 'certificate was renewed'),
    failed: error => log.warn({ err: error, files: paths }, 'certificate was not renewed'),
  })
  const { tls } = config.server
  const groups = [
    certificate(tlsFiles(tls), contents => renewTls(app.server, tls, readIn(contents))),
    certificate(upstreamTlsFiles(config.upstream), contents => upstream.renewTls(readIn(contents))),
  ]
  if (config.override.file !== undefined) files.follow(overrideOf(core, config.override.file))
  // An earlier process may have declared one.
  else core.breaker.declareOverride(null)
  for (const group of groups) if (group.files.length > 0) files.follow(group)
  let followed = ''
  let unfollow: readonly (() => void)[] = []
  const followSecrets = () => {
    const secrets = secretFiles(core.live.current)
    if (JSON.stringify(secrets) === followed) return
    followed = JSON.stringify(secrets)
    for (const stop of unfollow) stop()
    unfollow = [
      ...secrets.map(secret => secretOf(core, secret)),
      ...upstream.probeHeaders.files.map(file => headerOf(core, upstream, file)),
    ].map(secret => files.follow(secret))
  }
  followSecrets()
  return followSecrets
}

/** Follows the file of the declared override. */
function overrideOf({ breaker, clock, log }: Core, file: string): FollowedFiles {
  return {
    files: [file],
    isOptional: true,
    use: contents => {
      const text = contents.get(file)
      if (text === undefined) return breaker.declareOverride(null)
      const yaml = readYaml(text)
      if (!yaml.ok) {
        const problems = yaml.problems.map(({ position, expected, given }) =>
          `${position}: expected ${expected}; given ${given}`.replace(/^: /, ''),
        )
        throw new Error(problems.join(', '))
      }
      const parsed = parseDeclaredOverride(yaml.value, clock())
      if (!parsed.ok) throw new Error(parsed.faults.join('; '))
      breaker.declareOverride(parsed.override)
    },
    // The breaker reports each change.
    renewed: () => undefined,
    failed: error => log.warn({ problem: error.message, file }, 'override file was not applied'),
  }
}

/** Follows the file of one secret option. Its contents are never logged. */
function secretOf(
  { live, log }: Core,
  { option, file }: { readonly option: string; readonly file: string },
): FollowedFiles {
  return {
    files: [file],
    // The configuration was loaded with it a moment ago. A change since then must not make a reload fail.
    isOptional: true,
    use: contents => {
      const text = contents.get(file)
      if (text === undefined) throw new Error('the file does not exist')
      live.replaceSecret(option, text)
    },
    renewed: () => log.info({ option, file }, 'secret was renewed'),
    failed: error => log.warn({ err: error, option, file }, 'secret was not renewed'),
  }
}

/** Follows the file of a header that is sent with each probe. */
function headerOf({ log }: Core, { probeHeaders }: Upstream, file: string): FollowedFiles {
  const option = 'probe.headers'
  return {
    files: [file],
    use: contents => probeHeaders.use(file, contents.get(file) ?? ''),
    renewed: () => log.info({ option, file }, 'secret was renewed'),
    failed: error => log.warn({ err: error, option, file }, 'secret was not renewed'),
  }
}
