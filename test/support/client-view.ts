import type { ClientView } from '../../src/proxy/client-view.js'

/** The view of a client at this address that has no gateway in front, and did not name a host. */
export function viewFrom(address: string): ClientView {
  return {
    ...{ peer: address, isTrusted: false, address, earlier: [], scheme: 'http', host: '' },
    ...{ port: undefined, prefix: '', ownPrefix: '', forwarded: undefined },
  }
}
