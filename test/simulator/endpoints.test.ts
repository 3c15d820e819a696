import assert from 'node:assert/strict'
import { once } from 'node:events'
import { request } from 'node:http'
import { test } from 'node:test'
import { latencyMs } from '../../src/simulator/samples.js'
import { live, simulate, until } from '../support/simulate.js'

const historic = { ...live, channels: { min: 1, max: 50 }, start_time: 1764946703, end_time: 1764953903 }
const unrecorded = { ...historic, start_time: 1000, end_time: 2000 }
const missingFiber = { detail: 'Cannot proceed: Missing required fiber metadata fields: prr' }

/** The members of a configure response that the tests check. */
interface JobAnswer {
  readonly job_id: string
  readonly channel_amount: number
  readonly channel_to_stream_index: Readonly<Record<string, number>>
  readonly frequencies_amount: number
  readonly frequencies_list: readonly number[]
}

async function jobOf(answer: Response): Promise<JobAnswer> {
  return (await answer.json()) as JobAnswer
}

/** Sends a path unchanged, which fetch would normalise. */
async function sendRaw(port: number, method: string, path: string, host = 'example:5000') {
  const sent = request({ host: '127.0.0.1', port, method, path, headers: { host }, agent: false }).end()
  const [response] = await once(sent, 'response')
  response.resume()
  return { status: response.statusCode, headers: response.headers }
}

test('ack has an empty body and no content type', async t => {
  const { simulator } = await simulate(t)
  const { status, headers } = await sendRaw(simulator.port, 'GET', '/ack')
  assert.equal(status, 200)
  assert.equal(headers['content-length'], '0')
  assert.equal(headers['content-type'], undefined)
})

test('the channels do not depend on the fiber', async t => {
  const { send } = await simulate(t, { fiber: 'missing' })
  assert.deepEqual(await (await send('GET', '/channels')).json(), {
    lowest_channel: 1,
    highest_channel: 2337,
  })
})

test('the metadata follows the fiber', async t => {
  const { simulator, send } = await simulate(t, { fiber: 'missing' })
  const read = async () => (await send('GET', '/live_metadata')).text()
  assert.match(await read(), /"prr":0\.0,.*"sw_version":"waiting for fiber"/)
  await simulator.setFiber('partial')
  assert.match(await read(), /"prr":2000\.0,.*"sw_version":"waiting for fiber"/)
  await simulator.setFiber('present')
  assert.match(await read(), /"prr":2000\.0,.*"sw_version":"11\.17\.10513"/)
})

test('the content type of JSON has no charset', async t => {
  const { send } = await simulate(t)
  for (const path of ['/live_metadata', '/openapi.json', '/nowhere']) {
    assert.equal((await send('GET', path)).headers.get('content-type'), 'application/json', path)
  }
})

test('a live configure starts a job for the requested channels', async t => {
  const { simulator, configure } = await simulate(t)
  const answer = await configure(live)
  assert.equal(answer.status, 200)
  const job = await jobOf(answer)
  assert.equal(job.channel_amount, 99)
  assert.deepEqual(Object.keys(job.channel_to_stream_index).slice(0, 2), ['11', '12'])
  assert.equal(job.frequencies_amount, 512)
  assert.equal(job.frequencies_list.length, 512)
  assert.deepEqual(
    simulator.jobs.map(({ id, kind }) => ({ id, kind })),
    [{ id: job.job_id, kind: 'live' }],
  )
})

test('a historic configure returns the format of the captured response', async t => {
  const { simulator, configure } = await simulate(t)
  const answer = await configure({ ...historic, frequencyRange: { min: 0, max: 500 } })
  const { channel_to_stream_index, frequencies_list, ...others } = await jobOf(answer)
  const streams = Object.values(channel_to_stream_index).join('')
  assert.equal(streams, '0'.repeat(17) + '1'.repeat(17) + '2'.repeat(16))
  assert.equal(frequencies_list.length, 256)
  assert.equal(frequencies_list[1], 1.951219512195122)
  assert.deepEqual(others, {
    status: '',
    lines_dt: 0.5,
    stream_amount: 3,
    job_id: '1-1603',
    frequencies_amount: 256,
    channel_amount: 50,
    stream_port: 12301,
    stream_url: 'http://192.0.2.10',
    view_type: 0,
    metadata: {
      layer_type: 'smart_recorder',
      uuid: '00000000-0000-4000-8000-000000000001',
      num_traces: 10000,
      parent: {
        layer_type: 'prp2_recording',
        dx: 1.0213698148727417,
        prr: 2000,
        num_traces: 2048,
        num_samples_per_trace: 9791,
        fiber_start_meters: 0,
        fiber_length_meters: 10000,
        fiber_description: 'site A',
      },
    },
  })
  assert.equal(simulator.jobs[0]?.kind, 'historic')
})

test('a historic configure for a time without a recording gets a 404', async t => {
  const { simulator, configure } = await simulate(t)
  const answer = await configure(unrecorded)
  assert.equal(answer.status, 404)
  assert.deepEqual(await answer.json(), { error: 'No recording found in given time range' })
  assert.equal(simulator.jobs.length, 0)
})

test('a configure with missing fields gets an error in FastAPI’s format', async t => {
  const { configure } = await simulate(t, { fiber: 'missing' })
  const answer = await configure({ channels: { min: 1 }, displayInfo: { height: 'tall' } })
  assert.equal(answer.status, 422)
  assert.deepEqual(await answer.json(), {
    detail: [
      { type: 'missing', loc: ['body', 'channels', 'max'], msg: 'Field required', input: { min: 1 } },
      {
        type: 'int_parsing',
        loc: ['body', 'displayInfo', 'height'],
        msg: 'Input should be a valid integer',
        input: 'tall',
      },
      {
        type: 'missing',
        loc: ['body', 'view_type'],
        msg: 'Field required',
        input: { channels: { min: 1 }, displayInfo: { height: 'tall' } },
      },
    ],
  })
})

test('a configure that is not a JSON object gets a 422 with one fault', async t => {
  const { simulator } = await simulate(t)
  const typeOf = async (body: string, contentType = 'application/json') => {
    const headers = { 'content-type': contentType }
    const answer = await fetch(`${simulator.url}/configure`, { method: 'POST', headers, body })
    assert.equal(answer.status, 422)
    const types = [...(await answer.text()).matchAll(/"type":"(\w+)"/g)].map(([, type]) => type)
    assert.equal(types.length, 1)
    return types[0]
  }
  assert.equal(await typeOf('{"channels":'), 'json_invalid')
  assert.equal(await typeOf('[]'), 'model_attributes_type')
  assert.equal(await typeOf('null'), 'model_attributes_type')
  assert.equal(await typeOf(''), 'missing')
  assert.equal(await typeOf(JSON.stringify(live), 'text/plain'), 'model_attributes_type')
})

test('a configure with channels that do not exist gets a 500', async t => {
  const { configure } = await simulate(t)
  for (const channels of [
    { min: 0, max: 5 },
    { min: 5, max: 4 },
    { min: 1, max: 1e9 },
  ]) {
    const answer = await configure({ ...live, channels })
    assert.equal(answer.status, 500)
    assert.deepEqual(await answer.json(), { error: 'Error parsing configuration' })
  }
})

test('without a complete fiber every configure is rejected, with four log lines each', async t => {
  const lines: string[] = []
  const { simulator, configure } = await simulate(t, { fiber: 'missing', log: line => lines.push(line) })
  for (const body of [live, historic]) {
    const answer = await configure(body)
    assert.equal(answer.status, 503)
    assert.deepEqual(await answer.json(), missingFiber)
  }
  await simulator.setFiber('partial')
  assert.deepEqual(await (await configure(live)).json(), missingFiber)
  assert.equal(simulator.counters.rejectedForFiber, 3)
  assert.equal(lines.length, 12)
  assert.ok(
    lines[2]?.includes('Cannot configure job - validation failed: Cannot proceed: Missing required fiber'),
  )
})

test('historic jobs can be allowed without a fiber', async t => {
  const { configure } = await simulate(t, { fiber: 'missing', historicWithoutFiber: true })
  assert.equal((await configure(historic)).status, 200)
  assert.equal((await configure(live)).status, 503)
})

test('when the GPU is full a configure is rejected with another text', async t => {
  const { simulator, configure } = await simulate(t, { maxJobs: 2 })
  const answers = await Promise.all([configure(live), configure(live), configure(live)])
  assert.deepEqual(answers.map(answer => answer.status).sort(), [200, 200, 503])
  const refused = answers.find(answer => answer.status === 503)
  assert.deepEqual(await refused?.json(), { detail: 'Cannot start job: no GPU resources left' })
  assert.equal(simulator.jobs.length, 2)
  assert.equal(simulator.counters.rejectedForFiber, 0)
})

test('a job ends after its duration and makes room', async t => {
  const { simulator, send, configure } = await simulate(t, { maxJobs: 1, jobDurationMs: 20 })
  const { job_id } = await jobOf(await configure(live))
  await until(
    () => simulator.jobs.length,
    length => length === 0,
  )
  assert.equal((await send('GET', `/metadata/${job_id}`)).status, 404)
  assert.equal((await configure(live)).status, 200)
})

test('the metadata of a job is returned, and an unknown id gets a 404', async t => {
  const { send, configure } = await simulate(t)
  const job = await jobOf(await configure(live))
  const known = await send('GET', `/metadata/${job.job_id}`)
  assert.equal(known.status, 200)
  assert.deepEqual(await known.json(), job)
  const unknown = await send('GET', '/metadata/1-1')
  assert.equal(unknown.status, 404)
  assert.deepEqual(await unknown.json(), { error: 'Invalid job_id' })
})

test('a job with realistic latency appears after a delay', async t => {
  const { send, configure } = await simulate(t, { latency: 'realistic', random: () => 0 })
  const { job_id } = await jobOf(await configure(live))
  const ask = async () => (await send('GET', `/metadata/${job_id}`)).status
  assert.equal(await ask(), 404)
  await until(ask, status => status === 200)
})

test('the latencies are those measured on a real server', () => {
  assert.deepEqual([latencyMs.liveMetadata(0), latencyMs.liveMetadata(1)], [4, 13])
  assert.deepEqual(
    [latencyMs.configure(0), latencyMs.configure(0.5), latencyMs.configure(1)],
    [180, 336, 891],
  )
})

test('the recordings of a time range are those that overlap it', async t => {
  const { send } = await simulate(t, {
    recordings: [
      [100, 200],
      [300, 400],
    ],
  })
  const read = async (start_time: number, end_time: number) =>
    (await send('POST', '/recordings_in_time_range', { start_time, end_time })).json()
  assert.deepEqual(await read(0, 1000), [
    [100, 200],
    [300, 400],
  ])
  assert.deepEqual(await read(150, 160), [[100, 200]])
  assert.deepEqual(await read(201, 299), [])
  assert.equal((await send('POST', '/recordings_in_time_range', {})).status, 422)
})

test('the timeline of recordings is an HTML page', async t => {
  const { send } = await simulate(t)
  const answer = await send('GET', '/get_recordings_timeline')
  assert.equal(answer.headers.get('content-type'), 'text/html; charset=utf-8')
  assert.match(await answer.text(), /^<!DOCTYPE html>/)
})

test('the OpenAPI description lists the endpoints', async t => {
  const { send } = await simulate(t)
  const description = await (await send('GET', '/openapi.json')).text()
  assert.match(description, /"\/configure":\{"post":/)
  assert.match(description, /"\/metadata\/\{job_id\}":\{"get":/)
})

test('unknown paths get FastAPI’s error', async t => {
  const { simulator, send } = await simulate(t)
  const unknown = await send('GET', '/sensors')
  assert.equal(unknown.status, 404)
  assert.deepEqual(await unknown.json(), { detail: 'Not Found' })
  assert.deepEqual(await (await send('POST', '/config/7', {})).json(), { detail: 'Not Found' })
  const wrongMethod = await send('GET', '/configure')
  assert.equal(wrongMethod.status, 405)
  assert.equal(wrongMethod.headers.get('allow'), 'POST')
  assert.equal((await sendRaw(simulator.port, 'HEAD', '/channels')).status, 405)
})

test('a trailing slash is redirected to the server’s own address', async t => {
  const { simulator } = await simulate(t)
  for (const path of ['/configure/', '/configure//', '/configure%2f']) {
    const { status, headers } = await sendRaw(simulator.port, 'POST', `${path}?a=1`)
    assert.equal(status, 307, path)
    assert.equal(headers.location, 'http://example:5000/configure?a=1', path)
  }
})

test('paths are matched as in Starlette', async t => {
  const { simulator } = await simulate(t)
  for (const path of [
    '/%63onfigure',
    '/configure%0a',
    'http://elsewhere.example/configure',
    '/configure?x=/y',
  ]) {
    assert.equal((await sendRaw(simulator.port, 'POST', path)).status, 422, path)
  }
  const others = [
    '/Configure',
    '//configure',
    '/./configure',
    '/%2563onfigure',
    '/configure;x=1',
    '/configure%3f',
    '/%zz',
  ]
  for (const path of others) assert.equal((await sendRaw(simulator.port, 'POST', path)).status, 404, path)
})
