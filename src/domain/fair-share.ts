/**
 * The client that has to give up a place to `client` when all places are taken: the one that has the most, if it has at least
 * two more than `client`. Otherwise undefined. The difference of two ensures that the client that gives up a place does not
 * end up with fewer than the one that gets it.
 *
 * @param places the places of each client; only their number counts.
 */
export function givesWay(
  places: ReadonlyMap<string, { readonly size: number }>,
  client: string,
): string | undefined {
  let most = (places.get(client)?.size ?? 0) + 1
  let found: string | undefined
  for (const [other, { size }] of places) {
    if (size <= most) continue
    most = size
    found = other
  }
  return found
}
