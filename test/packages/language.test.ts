import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { repositoryRoot } from '../support/harness.js'

const program = join(repositoryRoot, 'release/language.js')

/** Runs the check on files with these texts. Returns its exit code and the found phrases with their positions. */
function check(t: TestContext, files: Readonly<Record<string, string>>) {
  const directory = mkdtempSync(join(tmpdir(), 'focus-breaker-language-'))
  t.after(() => rmSync(directory, { recursive: true }))
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(directory, name)), { recursive: true })
    writeFileSync(join(directory, name), text)
  }
  const { status, stdout } = spawnSync(process.execPath, [program], { cwd: directory, encoding: 'utf8' })
  const found = [...stdout.matchAll(/^(\S+:\d+): "(.*)" → \S/gm)].map(
    ([, place, phrase]) => `${place} ${phrase}`,
  )
  return { status, found }
}

/** A sentence for each pattern, and the phrase that is found in it. */
const FOUND: readonly (readonly [phrase: string, sentence: string])[] = [
  ['whoever', 'Ask whoever runs the server.'],
  ['of whom', 'Two clients, of whom one waits.'],
  ['anew', 'It is read anew.'],
  ['is none', 'A URL that is none is an error.'],
  ['by then', 'The circuit is closed by then.'],
  ['as RFC 9110 has it', 'The header is sent as RFC 9110 has it.'],
  ['mended', 'The file was mended.'],
  ["operator's word", "An operator's word outranks the readings."],
  ['without rights', 'The process runs without rights.'],
  ['lane', 'The lane to the upstream is full.'],
  ['a spell', 'It ends a spell of silence.'],
  ['one more look', 'It takes one more look.'],
  ['looks whether', 'The proxy looks whether it is there.'],
  ['doubts', 'A burst of doubts is one probe.'],
  ['is told', 'The client is told the time.'],
  ['told', 'A reading told the proxy.'],
  ['tells clients apart', 'It tells clients apart.'],
  ['tells how', 'The metric tells how long it took.'],
  ['sees to it', 'The proxy sees to it.'],
  ['for want of', 'It fails for want of memory.'],
  ['in vain', 'It waits in vain.'],
  ['at last', 'It ends at last.'],
  ['Begin with this', 'Begin with this option.'],
  ['is content with', 'It is content with one reading.'],
  ['the crowd', 'Then the crowd comes back.'],
  ['is not believed', 'The header is not believed.'],
  ['walk round', 'Clients cannot walk round it.'],
  ['goes on', 'The outage goes on until a reading.'],
  ['is over', 'When the outage is over, it closes.'],
  ['beside', 'The lock is beside the file.'],
  ['shall', 'The client shall wait.'],
  ['comes of', 'The delay comes of the queue.'],
  ['hop-by-hop fields', 'It removes hop-by-hop fields.'],
  ['Nothing is known of', 'Nothing is known of this run.'],
  ['wrong admin tokens were given', 'It logs that wrong admin tokens were given.'],
  ['with a restart only', 'The option changes with a restart only.'],
  ['request has been here before', 'The request has been here before.'],
  ['has a fault', 'The configuration has a fault.'],
  ['found no room', 'The request found no room.'],
  ['waits in the room', 'A client waits in the room.'],
  ['be dear', 'A refusal would be dear.'],
  ['if need be', 'It waits, if need be.'],
  ['thereof', 'The end thereof is logged.'],
  ['Of w', 'It changes headers. Of what is forwarded nothing changes.'],
  ['What is wrong is r', 'What is wrong is reported.'],
]

/** Plain sentences that resemble the patterns. */
const NOT_FOUND = `
There is none. None of them is open. A new client is as fast as it can be. The default is None in Python.
As the proxy has it in memory, no file is read. The recommended value is 5. The fast lane of the tests takes two minutes.
It spells out the name. Some spelling errors are reported. No doubt, a client in doubt asks again. Look at the log.
The log looks like JSON. It takes a look at the log. It tells the client the time. The header goes on the wire.
The size is over 5 MB. Besides, the list is empty. It comes off. A member has a field. Of course, this is allowed.
What is a fiber? What is not stable can change. What a client sees is in the reference? Whole numbers only.
The wrong value was rejected. It changes only after a restart. The request was sent before. It has fault injection.
The recommendation of whole systems is out of scope. The last outage is at least two minutes long.
`

test('each banned phrase is found, with its file and line', t => {
  const patterns = readFileSync(program, 'utf8').split('const BANNED = [')[1]?.split('\n]\n')[0] ?? ''
  // One pattern applies only to the sources of the program, and has its own test.
  assert.equal(FOUND.length + 1, [...patterns.matchAll(/^ {2}\[/gm)].length, 'one sample for each pattern')
  const text = FOUND.map(([, sentence]) => `${sentence}\n\n`).join('')
  const found = FOUND.map(([phrase], index) => `a.md:${2 * index + 1} ${phrase}`)
  assert.deepEqual(check(t, { 'a.md': text }), { status: 1, found })
})

test('plain sentences that resemble the phrases are not found', t => {
  assert.deepEqual(check(t, { 'a.md': NOT_FOUND }), { status: 0, found: [] })
})

test('comments, strings and page texts are read, and a phrase may cross the end of a line', t => {
  const files = {
    'src/a.ts': [
      '/**',
      ' * It is read',
      ' * anew. Of',
      ' * what is there.',
      ' */',
      "const anew = 'is not ' + /anew/.source // for want",
      "// of memory; don't",
      `const text = \`It is \${anew} anew.\``,
      'const next = "beside"',
    ].join('\n'),
    'b.py': '"""Is read\nanew."""\nanew = 1  # in vain\ntext = "beside"\n',
    'c.yaml': 'key: 1\n# Read\n# in vain.\ntext: at last\n',
    'd.html': '<p>It is <b>in</b> vain.</p>\n<script>anew()</script>\n',
    'e.css': '/* in vain */ .anew { color: red }\n',
  }
  assert.deepEqual(check(t, files).found.toSorted(), [
    'b.py:2 anew',
    'b.py:3 in vain',
    'b.py:4 beside',
    'c.yaml:3 in vain',
    'c.yaml:4 at last',
    'd.html:1 in vain',
    'e.css:1 in vain',
    'src/a.ts:3 Of w',
    'src/a.ts:3 anew',
    'src/a.ts:6 for want of',
    'src/a.ts:8 anew',
    'src/a.ts:9 beside',
  ])
})

test('code in Markdown, quoted names in comments, and dependencies are not read', t => {
  const files = {
    'a.md': 'The line `in vain` became `without success`.\n\n```\nanew\n```\n\n[text](beside.md)\n',
    'b.ts': '// `anew` is a name.\nanew(/in vain/)\n',
    'node_modules/x/c.md': 'anew\n',
    LICENSE: 'shall\n',
  }
  assert.deepEqual(check(t, files), { status: 0, found: [] })
})

test('nobody and somebody are found only in the sources of the program', t => {
  const text = '// Nobody listens.\n'
  assert.deepEqual(check(t, { 'src/a.ts': text, 'page/a.js': text, 'a.md': 'Nobody listens.' }).found, [
    'src/a.ts:1 Nobody',
  ])
})
