import { BlockList, isIP } from 'node:net'

/** The ranges behind the names that Express, Fastify and others use. */
const NAMED: ReadonlyMap<string, readonly string[]> = new Map([
  ['loopback', ['127.0.0.0/8', '::1/128']],
  ['linklocal', ['169.254.0.0/16', 'fe80::/10']],
  ['uniquelocal', ['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', 'fc00::/7']],
])

/** Whether `entry` is an IP address, a CIDR range, or one of the names. */
export function isPeer(entry: string): boolean {
  try {
    trustedPeers([entry])
    return true
  } catch {
    return false
  }
}

/**
 * Creates a test for whether an address is in a list of addresses, CIDR ranges and names.
 *
 * @throws {RangeError} if an entry is not an address, a CIDR range or one of the names.
 */
export function trustedPeers(entries: readonly string[]): (address: string) => boolean {
  if (entries.length === 0) return () => false
  const list = new BlockList()
  for (const entry of entries) for (const range of NAMED.get(entry) ?? [entry]) addRange(list, range)
  return address => {
    const family = isIP(address)
    return family !== 0 && list.check(address, family === 6 ? 'ipv6' : 'ipv4')
  }
}

function addRange(list: BlockList, range: string): void {
  const [address = '', prefix, ...rest] = range.split('/')
  const family = isIP(address)
  const longest = family === 6 ? 128 : 32
  const length = prefix === undefined ? longest : Number(prefix)
  if (
    family === 0 ||
    rest.length > 0 ||
    prefix === '' ||
    !Number.isInteger(length) ||
    length < 0 ||
    length > longest
  ) {
    throw new RangeError(`${range} is not an IP address or a CIDR range`)
  }
  list.addSubnet(address, length, family === 6 ? 'ipv6' : 'ipv4')
}
