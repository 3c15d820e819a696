import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isHistoric, missingFiberFields } from '../../src/domain/configure-request.js'

const JOBS: readonly (readonly [that: string, body: string, isHistoric: boolean])[] = [
  ['both times given', '{"start_time":1764547200,"end_time":1764547260}', true],
  ['both times given among other members', '{"a":[{}],"end_time":2,"view_type":"0","start_time":1}', true],
  ['both times 0', '{"start_time":0,"end_time":0}', false],
  ['times as text', '{"start_time":"251201120000","end_time":"251201120100"}', true],
  ['whitespace around it', ' \r\n{ "start_time" : 1 , "end_time" : 2 }\n', true],
  ['both times null', '{"start_time":null,"end_time":null}', false],
  ['a start and an end that is null', '{"start_time":1764547200,"end_time":null}', false],
  ['a start that is null and an end', '{"start_time":null,"end_time":1764547260}', false],
  ['only a start', '{"start_time":1764547200}', false],
  ['only an end', '{"end_time":1764547260}', false],
  ['neither', '{"view_type":"0"}', false],
  ['a second end that overrides the first', '{"start_time":1,"end_time":2,"end_time":null}', false],
  ['times one level down', '{"job":{"start_time":1,"end_time":2}}', false],
  ['times of a prototype', '{"__proto__":{"start_time":1,"end_time":2}}', false],
  ['other letter case', '{"Start_Time":1,"END_TIME":2}', false],
  ['a list that contains a job', '[{"start_time":1,"end_time":2}]', false],
  ['a list of the names', '["start_time","end_time"]', false],
  ['text that contains a job', '"{\\"start_time\\":1,\\"end_time\\":2}"', false],
  ['null', 'null', false],
  ['a number', '42', false],
  ['nothing', '', false],
  ['half of a job', '{"start_time":1,"end_time":2', false],
  ['two jobs', '{"start_time":1,"end_time":2}{"start_time":1,"end_time":2}', false],
  ['NaN, which Python writes', '{"start_time":NaN,"end_time":2}', false],
  ['a form', 'start_time=1&end_time=2', false],
]

/** Values of every JSON type, including edge cases, and whether focus-server accepts each as a time. */
const VALUES: readonly (readonly [value: string, isTime: boolean])[] = [
  ...['1', '1764946703', '1764946703.0', '1.764946703e9', '1764946703000', '9007199254740991'].map(
    value => [value, true] as const,
  ),
  ...['"1"', '"1764946703"', '"251201120000"', '"0001"'].map(value => [value, true] as const),
  // Not times: numbers
  ...[
    '0',
    '-0',
    '0.0',
    '0e0',
    '-1',
    '-1764946703',
    '1.5',
    '0.1',
    '1e-9',
    '1e308',
    '1e400',
    '9007199254740992',
  ],
  // Text
  ...[
    '""',
    '" "',
    '"0"',
    '"00"',
    '"-1"',
    '"+1"',
    '"1.5"',
    '"1e9"',
    '"0x10"',
    '" 1"',
    '"1 "',
    '"1\\n"',
    '"1_000"',
  ],
  ...[
    '"null"',
    '"None"',
    '"false"',
    '"now"',
    '"NaN"',
    '"Infinity"',
    '"2025-12-05T00:00:00Z"',
    '"\\uff11"',
    '"9007199254740992"',
  ],
  // Other types
  ...['null', 'true', 'false', '[]', '[1]', '[0]', '{}', '{"$date":1}', '[[]]'],
].map(each => (typeof each === 'string' ? [each, false] : each))

test('a job is historic only if focus-server accepts both times, whatever their types', () => {
  for (const [start, isStart] of [...VALUES, [undefined, false] as const]) {
    for (const [end, isEnd] of [...VALUES, [undefined, false] as const]) {
      const fields = [
        ...(start === undefined ? [] : [`"start_time":${start}`]),
        ...(end === undefined ? [] : [`"end_time":${end}`]),
      ]
      for (const body of [`{${fields.join()}}`, `{${[...fields].reverse().join()}}`]) {
        assert.equal(isHistoric(body), isStart && isEnd, body)
      }
    }
  }
})

for (const [that, body, expected] of JOBS) {
  test(`a job with ${that} is ${expected ? 'historic' : 'live'}`, () => {
    assert.equal(isHistoric(body), expected)
  })
}

const TEXT = 'Cannot proceed: Missing required fiber metadata fields: prr'

const ANSWERS: readonly (readonly [that: string, answer: string, missing: readonly string[] | undefined])[] =
  [
    ['the text as detail', JSON.stringify({ detail: TEXT }), ['prr']],
    ['the text as error', JSON.stringify({ error: TEXT }), ['prr']],
    [
      'the text after other words, as in the log',
      JSON.stringify({ error: `Cannot configure job - validation failed: ${TEXT}` }),
      ['prr'],
    ],
    [
      'the structured response that clients asked for',
      JSON.stringify({
        error: 'Cannot configure job',
        reason: 'Missing required fiber metadata fields: prr',
        status: 'waiting_for_fiber',
        message:
          'System is waiting for fiber connection. Please ensure fiber is connected and metadata is available.',
        details: { prr: 0, sw_version: 'waiting for fiber', fiber_description: 'waiting for fiber' },
      }),
      ['prr'],
    ],
    ["the text in a list, as FastAPI's detail", JSON.stringify({ detail: [{ msg: TEXT }] }), ['prr']],
    ['an indented document', JSON.stringify({ detail: TEXT }, null, 2), ['prr']],
    ['the bare text', TEXT, ['prr']],
    ['the text and a line feed', `${TEXT}\r\n`, ['prr']],
    ['the text in a page', `<html><body><h1>503</h1><p>${TEXT}</p></body></html>`, ['prr']],
    ['several fields', JSON.stringify({ detail: `${TEXT}, dx, sw_version` }), ['prr', 'dx', 'sw_version']],
    [
      'several fields without spaces',
      JSON.stringify({ detail: `${TEXT},dx,sw_version` }),
      ['prr', 'dx', 'sw_version'],
    ],
    ['several fields and more', JSON.stringify({ detail: `${TEXT}, dx (and so on)`, at: 5 }), ['prr', 'dx']],
    ['a nested field', '{"error":"Missing required fiber metadata fields: fiber.prr"}', ['fiber.prr']],
    [
      'several nested fields',
      '{"error":"Missing required fiber metadata fields:a.bc.def , g.hi,k"}',
      ['a.bc.def', 'g.hi', 'k'],
    ],
    ['one field in the singular', '{"error":"Missing required fiber metadata field: dx"}', ['dx']],
    ['other letter case', '{"error":"MISSING REQUIRED FIBER METADATA FIELDS: prr"}', ['prr']],
    ['a response cut off after the text', `{"padding":"${'x'.repeat(60_000)}","detail":"${TEXT}`, ['prr']],
    ['a field of many characters', `{"detail":"${TEXT}${'x'.repeat(500)}"}`, [`prr${'x'.repeat(61)}`]],
    ['no field named', '{"detail":"Missing required fiber metadata fields: "}', undefined],
    ["the database's 503", '{"error":"Database connection failed"}', undefined],
    ['a 503 that names the fiber', '{"error":"fiber metadata is being read"}', undefined],
    ['a job without metadata of its own', '{"detail":"Missing required fields: prr"}', undefined],
    ['an ingress', '<html><head><title>503 Service Temporarily Unavailable</title></head></html>', undefined],
    ['a validation error', '{"detail":[{"loc":["body","channels"],"msg":"field required"}]}', undefined],
    ['a parsing error', '{"error":"Error parsing configuration"}', undefined],
    ['a refusal of our own kind', '{"error":"Cannot configure job: waiting for fiber"}', undefined],
    ['no recording', '{"error":"No recording found in given time range"}', undefined],
    ['nothing', '', undefined],
  ]

for (const [that, answer, missing] of ANSWERS) {
  test(`a response with ${that} ${missing === undefined ? 'does not report a missing fiber' : `reports as missing ${missing.map(field => field.slice(0, 20))}`}`, () => {
    assert.deepEqual(missingFiberFields(answer), missing)
  })
}

test('searching the largest response takes at most a few milliseconds, whatever it contains', () => {
  const start = 'Missing required fiber metadata fields: '
  for (const filling of ['a , ', 'a', ' ', ',', start, `${start} `]) {
    const answer = (start + filling.repeat(65_536)).slice(0, 65_536)
    // Processor time: the machine may have other work.
    const before = process.cpuUsage()
    missingFiberFields(answer)
    const tookMs = process.cpuUsage(before).user / 1000
    assert.ok(tookMs < 200, `${tookMs} ms for '${filling}'`)
  }
})
