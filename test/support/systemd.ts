import assert from 'node:assert/strict'
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { at, repositoryRoot, until } from './harness.js'

/** How a command ended, and what it wrote to both outputs. */
export type Ran = { readonly code: number; readonly output: string }

/** The location of the program's package, as `npm install --global` puts it for a Node in /usr/local. */
const PACKAGE = '/usr/local/lib/node_modules/focus-breaker'

/** The Debian units that make up a machine without any services. */
const BASE_UNITS = `
  basic.target local-fs.target local-fs-pre.target multi-user.target network.target network-online.target paths.target
  shutdown.target slices.target sockets.target swap.target sysinit.target timers.target umount.target
  systemd-journald.service systemd-journald.socket systemd-journald-dev-log.socket
`
  .trim()
  .split(/\s+/)

/**
 * Makes the machine's root file system the root of a separate machine, and starts systemd in it. Everything written
 * there is kept in memory. It has its own control groups: systemd would change how those of the machine are mounted.
 */
const BOOT = `
set -eu
mkdir -p "$GROUP"
echo $$ > "$GROUP/cgroup.procs"
exec setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child --ipc --uts --cgroup /bin/sh -eu -c '
  mount --make-rprivate /
  mount -t tmpfs tmpfs "$PLACE"
  mkdir "$PLACE/upper" "$PLACE/work" "$PLACE/root"
  root=$PLACE/root
  mount -t overlay overlay -o "lowerdir=/,upperdir=$PLACE/upper,workdir=$PLACE/work" "$root"
  mount -t proc proc "$root/proc"
  mount -t sysfs -o ro sysfs "$root/sys"
  mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
  mount --rbind /dev "$root/dev"
  mount -t tmpfs tmpfs "$root/run"
  mount -t tmpfs tmpfs "$root/etc/systemd/system"
  rm -f "$root/etc/machine-id"
  mkdir "$root/run/base" "$root/run/generators" "$root/run/repository" "$root/run/old"
  for unit in $BASE_UNITS; do cp "/lib/systemd/system/$unit" "$root/run/base"; done
  printf "[Unit]\\nRequires=basic.target systemd-journald.service\\nAfter=basic.target systemd-journald.service\\n" \\
    > "$root/run/base/booted.target"
  mount --bind "$REPOSITORY" "$root/run/repository"
  package=$root$PACKAGE
  mkdir -p "$package/dist" "$package/node_modules" "$root/usr/local/bin"
  mount --bind "$DIST" "$package/dist"
  mount --bind "$REPOSITORY/node_modules" "$package/node_modules"
  cp -r "$REPOSITORY/package.json" "$REPOSITORY/page" "$REPOSITORY/config" "$package"
  ln -sf "../lib/node_modules/focus-breaker/dist/cli/main.js" "$root/usr/local/bin/focus-breaker"
  rm -f "$root/usr/local/bin/node"
  touch "$root/usr/local/bin/node"
  mount --bind "$NODE" "$root/usr/local/bin/node"
  cd "$root"
  pivot_root . run/old
  umount -l run/old
  # As systemd expects it of a container: credentials are mounted from a separate process.
  mount --make-rshared /
  # Nothing of the test around it: systemd hands its environment on.
  exec env -i PATH="$PATH" container=test SYSTEMD_UNIT_PATH=/etc/systemd/system:/run/base \\
    SYSTEMD_GENERATOR_PATH=/run/generators SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/run/generators \\
    /lib/systemd/systemd --system --unit=booted.target --log-target=journal --show-status=no
'
`

/** A machine with its own systemd, in which the program is installed and nothing else runs. */
export class Machine {
  readonly #systemd: number

  constructor(systemd: number) {
    this.#systemd = systemd
  }

  /** Runs a script in the repository's root on this machine, as root. */
  async run(script: string): Promise<Ran> {
    const namespaces = ['--target', String(this.#systemd), '--mount', '--pid', '--ipc', '--uts', '--cgroup']
    const shell = ['/bin/sh', '-eu', '-c', `cd /run/repository\n${script}`]
    return await new Promise(resolve => {
      execFile('/usr/bin/nsenter', [...namespaces, ...shell], (error, stdout, stderr) => {
        const code = error === null ? 0 : Number(error.code ?? 1)
        resolve({ code, output: stdout + stderr })
      })
    })
  }

  /** The same for a script that must succeed; returns its output. */
  async sure(script: string): Promise<string> {
    const { code, output } = await this.run(script)
    assert.equal(code, 0, `${script}\n${output}`)
    return output
  }

  /** Writes a file, and creates its directory if needed. */
  async write(file: string, text: string): Promise<void> {
    const quoted = text.replaceAll("'", "'\\''")
    await this.sure(`mkdir -p "$(dirname ${file})"\nprintf %s '${quoted}' > ${file}`)
  }

  /** The output of `systemctl show` for the service. */
  async show(property: string): Promise<string> {
    return (await this.sure(`systemctl show --property=${property} --value focus-breaker`)).trim()
  }

  /** The journal of the service: its own lines, and those of systemd about it. */
  async journal(): Promise<readonly string[]> {
    return (await this.sure('journalctl --unit=focus-breaker --output=cat --no-pager')).split('\n')
  }

  /** The first line of the service's log with this message, or undefined. */
  async logged(msg: string): Promise<unknown> {
    for (const line of await this.journal()) {
      if (!line.startsWith('{')) continue
      const value: unknown = JSON.parse(line)
      if (at(value, 'msg') === msg) return value
    }
    return undefined
  }
}

/**
 * Starts a machine for the duration of the test: the file system of the surrounding machine, separate processes, the
 * same network. It uses the given Node.
 */
export async function bootMachine(t: TestContext, node: string = process.execPath): Promise<Machine> {
  const place = mkdtempSync(join(tmpdir(), 'focus-breaker-systemd-'))
  // The file that npm makes executable when it installs the package.
  const dist = mkdtempSync(join(tmpdir(), 'focus-breaker-dist-'))
  cpSync(join(repositoryRoot, 'dist'), dist, { recursive: true })
  chmodSync(dist, 0o755)
  chmodSync(join(dist, 'cli/main.js'), 0o755)
  const unified = existsSync('/sys/fs/cgroup/unified') ? '/sys/fs/cgroup/unified' : '/sys/fs/cgroup'
  const group = join(unified, `focus-breaker-test-${process.pid}-${place.slice(-6)}`)
  const boot = spawn('/bin/sh', ['-c', BOOT], {
    env: {
      PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
      BASE_UNITS: BASE_UNITS.join(' '),
      DIST: dist,
      GROUP: group,
      NODE: node,
      PACKAGE,
      PLACE: place,
      REPOSITORY: repositoryRoot,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const ended = once(boot, 'close')
  const kill = () => boot.kill('SIGKILL')
  process.once('exit', kill)
  t.after(async () => {
    kill()
    process.off('exit', kill)
    await ended
    await until(() => removeGroup(group), { what: 'its control groups are gone' })
    for (const directory of [place, dist]) rmSync(directory, { recursive: true })
  })
  let printed = ''
  for (const output of [boot.stdout, boot.stderr]) output.on('data', data => (printed += String(data)))
  return await until(
    async () => {
      assert.equal(boot.exitCode, null, printed)
      const systemd = childOf(boot)
      if (systemd === undefined) return false
      const machine = new Machine(systemd)
      return (await machine.run('systemctl is-active booted.target')).code === 0 && machine
    },
    { what: 'systemd has started', timeoutMs: 30_000 },
  )
}

/** The process that unshare started: the first one of the machine. */
function childOf({ pid }: ChildProcess): number | undefined {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim()
  return children === '' ? undefined : Number(children.split(' ')[0])
}

/** Whether a group and all groups below it could be removed: not before their last process has ended. */
function removeGroup(group: string): boolean {
  for (const entry of readdirSync(group, { withFileTypes: true })) {
    if (entry.isDirectory()) removeGroup(join(group, entry.name))
  }
  rmdirSync(group)
  return true
}
