/**
 * The client that has to give up a place to `client` where every place is taken: the one that has the most, if that is
 * at least two more than `client` has. Taking one from it then leaves neither with fewer than the other had. Undefined
 * when there is no such client.
 *
 * @param places what each client has; only the sizes count.
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
