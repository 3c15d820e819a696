import type { ClientView } from '../../src/proxy/client-view.js'

/** How a client at this address appears if it has no gateway in front and sends no Host. */
export function viewFrom(address: string): ClientView {
  return {
    ...{ peer: address, isTrusted: false, address, earlier: [], scheme: 'http', host: '' },
    ...{ port: undefined, prefix: '', ownPrefix: '', forwarded: undefined },
  }
}
