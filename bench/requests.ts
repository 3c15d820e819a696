/** One kind of request, as the load generator and the checks send it. */
export type BenchRequest = {
  readonly method: 'GET' | 'POST'
  readonly path: string
  /** Empty when the request has no body. */
  readonly body: string
}

/** The body of every configure request of the bench. The bench's upstream accepts no other body. */
export const CONFIGURE_BODY = JSON.stringify({
  displayTimeAxisDuration: 30,
  nfftSelection: 1024,
  displayInfo: { height: 200 },
  channels: { min: 11, max: 109 },
  frequencyRange: { min: 0, max: 1000 },
  start_time: null,
  end_time: null,
  view_type: '0',
})

/** `POST /configure`, refused or forwarded. */
export const CONFIGURE: BenchRequest = { method: 'POST', path: '/configure', body: CONFIGURE_BODY }

/** `GET /channels`, the smallest response that clients poll. */
export const CHANNELS: BenchRequest = { method: 'GET', path: '/channels', body: '' }

/** The headers that Python's `requests` sends, which focus-server's clients use. */
const CLIENT_HEADERS = [
  'User-Agent: python-requests/2.32.3',
  'Accept-Encoding: gzip, deflate',
  'Accept: */*',
  'Connection: keep-alive',
]

/** The whole request, as it goes over the wire. */
export function bytesOf({ method, path, body }: BenchRequest): Buffer {
  const entity =
    body === '' ? [] : [`Content-Length: ${Buffer.byteLength(body)}`, 'Content-Type: application/json']
  const lines = [`${method} ${path} HTTP/1.1`, 'Host: focus-server', ...CLIENT_HEADERS, ...entity]
  return Buffer.from(`${lines.join('\r\n')}\r\n\r\n${body}`)
}
