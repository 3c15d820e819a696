import type { Peer } from './children.js'
import { bytesOf, CHANNELS, CONFIGURE } from './requests.js'
import type { Servers } from './servers.js'
import type { CaseName, Settings } from './settings.js'

/** One kind of request, and the servers that are compared under it. */
export type BenchCase = {
  readonly name: CaseName
  readonly title: string
  readonly request: Buffer
  /** The status that every response must have. */
  readonly status: number
  /** focus-breaker, with which the other servers are compared. */
  readonly subject: Peer
  readonly peers: readonly Peer[]
}

/** The cases that the settings select. */
export function casesOf(settings: Settings, refusing: Servers, forwarding: Servers): readonly BenchCase[] {
  const all: readonly BenchCase[] = [
    {
      ...{ name: 'refusal', title: 'POST /configure, refused', request: bytesOf(CONFIGURE), status: 503 },
      ...compared(refusing),
    },
    {
      ...{ name: 'get', title: 'GET /channels, forwarded', request: bytesOf(CHANNELS), status: 200 },
      ...compared(forwarding),
    },
    {
      ...{ name: 'post', title: 'POST /configure, forwarded', request: bytesOf(CONFIGURE), status: 200 },
      ...compared(forwarding),
    },
  ]
  return all.filter(({ name }) => settings.cases.includes(name))
}

function compared({ subject, before, others }: Servers): Pick<BenchCase, 'subject' | 'peers'> {
  return { subject, peers: before === undefined ? others : [before, ...others] }
}
