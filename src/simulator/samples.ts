import type { Fiber } from './scenario.js'

/*
 * Responses captured from focus-server (addresses replaced). Bodies are kept as text where their spelling matters:
 * Python writes `0.0` where JSON.stringify writes `0`.
 */

/** The body of `GET /live_metadata` for each state of the fiber. */
export const liveMetadata: Readonly<Record<Fiber, string>> = {
  present:
    '{"dx":1.0213698148727417,"prr":2000.0,"fiber_start_meters":0,"fiber_length_meters":10000,"sw_version":"11.17.10513","number_of_channels":9791,"fiber_description":"site A"}',
  partial:
    '{"dx":1.0213698148727417,"prr":2000.0,"fiber_start_meters":0,"fiber_length_meters":10000,"sw_version":"waiting for fiber","number_of_channels":2337,"fiber_description":"site A"}',
  missing:
    '{"dx":0.0,"prr":0.0,"fiber_start_meters":null,"fiber_length_meters":null,"sw_version":"waiting for fiber","number_of_channels":2337,"fiber_description":"waiting for fiber"}',
}

/** The existing channels. A configure request outside this range fails with a 500. */
export const channelLimits = { lowest: 1, highest: 2337 } as const

/** The body of `GET /channels`. */
export const channels = `{"lowest_channel":${channelLimits.lowest},"highest_channel":${channelLimits.highest}}`

/** A time range of stored data: first and last second in Unix time. */
export type Recording = readonly [startSeconds: number, endSeconds: number]

/** The default recordings. The captured historic request lies within the first one. */
export const recordings: readonly Recording[] = [
  [1764946000, 1764954000],
  [1764957600, 1764961200],
]

/** The sentence that indicates a missing fiber in the response of `POST /configure` and in the log. */
export const missingFiber = 'Cannot proceed: Missing required fiber metadata fields: prr'

/**
 * The four log lines of one rejected configure request. Only the third was captured verbatim; the others replace lines
 * that were counted but not kept.
 */
export function missingFiberLog(client: string): readonly string[] {
  return [
    'INFO - Received configure request',
    `ERROR - ${missingFiber}`,
    `ERROR - Cannot configure job - validation failed: ${missingFiber}`,
    `INFO:     ${client} - "POST /configure HTTP/1.1" 503 Service Unavailable`,
  ]
}

/** A parsed configure request: the values that the response depends on, with defaults filled in. */
export interface JobRequest {
  readonly kind: 'live' | 'historic'
  readonly channels: { readonly min: number; readonly max: number }
  readonly frequencies: { readonly min: number; readonly max: number }
  readonly nfft: number
  readonly viewType: number
}

const prr = 2000
const streamAmount = 3

/** The body of a successful `POST /configure`: about 6 KB for 50 channels. It grows with the number of channels. */
export function configureResponse(request: JobRequest, jobId: string, streamPort: number): string {
  const { min, max } = request.channels
  const channelAmount = max - min + 1
  const streams = Math.min(streamAmount, channelAmount)
  const channelsPerStream = Math.ceil(channelAmount / streams)
  const channelToStream = Array.from({ length: channelAmount }, (_, index) => [
    String(min + index),
    Math.floor(index / channelsPerStream),
  ])
  const frequencies = frequencyList(request)
  return JSON.stringify({
    status: '',
    frequencies_list: frequencies,
    lines_dt: 0.5,
    channel_to_stream_index: Object.fromEntries(channelToStream),
    stream_amount: streams,
    job_id: jobId,
    frequencies_amount: frequencies.length,
    channel_amount: channelAmount,
    stream_port: streamPort,
    stream_url: 'http://192.0.2.10',
    view_type: request.viewType,
    metadata: {
      layer_type: 'smart_recorder',
      uuid: '00000000-0000-4000-8000-000000000001',
      num_traces: 10000,
      parent: {
        layer_type: 'prp2_recording',
        dx: 1.0213698148727417,
        prr,
        num_traces: 2048,
        num_samples_per_trace: 9791,
        fiber_start_meters: 0,
        fiber_length_meters: 10000,
        fiber_description: 'site A',
      },
    },
  })
}

/** Spaced as in the captured response: 256 frequencies below 500 Hz for an nfft of 1024. */
function frequencyList({ nfft, frequencies }: JobRequest): number[] {
  const spacing = prr / (nfft + 1)
  const first = Math.ceil(frequencies.min / spacing)
  const count = Math.max(0, Math.min(Math.floor(frequencies.max / spacing), nfft) - first)
  return Array.from({ length: count }, (_, index) => (first + index) * spacing)
}

/** How long each kind of response takes, in milliseconds, for a random number from 0 to 1. */
export const latencyMs = {
  /** 4 to 13 ms, as measured. */
  liveMetadata: (draw: number) => 4 + 9 * draw,
  /** Median 336 ms and maximum 891 ms as measured, with a tail. The minimum, 180 ms, is a guess. */
  configure: (draw: number) => (draw < 0.5 ? 180 + 312 * draw : 336 + 555 * (2 * draw - 1) ** 3),
  /** How long `GET /metadata/{job_id}` returns 404 for a new job. "Some seconds" were observed; this is shorter. */
  jobToAppear: (draw: number) => 500 + 1500 * draw,
  other: (draw: number) => 1 + 3 * draw,
} as const

/** The page of `GET /get_recordings_timeline`. */
export function recordingsTimeline(stored: readonly Recording[]): string {
  const rows = stored.map(([start, end]) => `<li>${isoTime(start)} to ${isoTime(end)}</li>`).join('')
  return `<!DOCTYPE html><html><head><title>Recordings</title></head><body><ul>${rows}</ul></body></html>`
}

function isoTime(seconds: number): string {
  return new Date(seconds * 1000).toISOString()
}

/** The page of `GET /docs`. */
export const docs =
  '<!DOCTYPE html><html><head><title>focus-server - Swagger UI</title></head><body><div id="swagger-ui"></div></body></html>'

/** The body of `GET /openapi.json`, reduced to what a client needs to find the endpoints. */
export function openApi(endpoints: readonly { readonly method: string; readonly path: string }[]): string {
  const paths: Record<string, Record<string, object>> = {}
  for (const { method, path } of endpoints) {
    const operations = paths[path.replace(/:(\w+)/g, '{$1}')] ?? {}
    operations[method.toLowerCase()] = { responses: { 200: { description: 'Successful Response' } } }
    paths[path.replace(/:(\w+)/g, '{$1}')] = operations
  }
  return JSON.stringify({ openapi: '3.1.0', info: { title: 'focus-server', version: '0.1.0' }, paths })
}
