import Type, { type Static, type TSchema } from 'typebox'
import { DEFAULT_READY_WHEN } from '../domain/fiber.js'
import { REPLICA_WORD } from '../domain/redis-url.js'
import {
  EQUALITY_OPERATORS,
  GUARD_MODES,
  GUARD_SCOPES,
  LOG_FORMATS,
  LOG_LEVELS,
  NUMBER_OPERATORS,
  WEBHOOK_FORMATS,
} from '../domain/vocabulary.js'

/**
 * Every option, once: type, default, bounds, and the sentence that describes it.
 *
 * `config/default.yaml`, `config/schema.json` and the table of `docs/reference/configuration.md` are generated from
 * this, the names of environment variables are derived from it, and `Config` is its type.
 */

/** A group of options; all its members may be left out. */
function section<P extends Record<string, TSchema>>(description: string, properties: P) {
  return Type.Object(properties, { description, additionalProperties: false })
}

const milliseconds = (description: string, initial: number, minimum: number, maximum: number) =>
  Type.Integer({ description, default: initial, minimum, maximum })

const count = (description: string, initial: number, minimum: number, maximum: number) =>
  Type.Integer({ description, default: initial, minimum, maximum })

const DAY_MS = 86_400_000

/** The name of a header that an operator may add; `consistency` refuses some of them. */
const HEADER_NAME = '^[A-Za-z0-9][A-Za-z0-9_-]*$'

/** A header's value on one line, without spaces at its ends. */
const HEADER_VALUE = '^[!-~](?:[ -~]*[!-~])?$'

const Predicate = Type.Union(
  [
    Type.Object(
      {
        field: Type.String({ minLength: 1 }),
        operator: Type.Enum(NUMBER_OPERATORS),
        value: Type.Number(),
      },
      { additionalProperties: false },
    ),
    Type.Object(
      {
        field: Type.String({ minLength: 1 }),
        operator: Type.Enum(EQUALITY_OPERATORS),
        value: Type.Union([Type.String(), Type.Boolean()]),
      },
      { additionalProperties: false },
    ),
  ],
  { expected: '{field, operator, value}, with > >= < <= == != for a number, == != for text or true/false' },
)

const Route = Type.Object(
  {
    method: Type.String({ pattern: '^[A-Z]+$', expected: 'an HTTP method in capitals' }),
    path: Type.String({ pattern: '^/', expected: "a path that begins with '/'" }),
  },
  { additionalProperties: false, expected: '{method, path}, the method in capitals' },
)

const HeaderValue = Type.Union([
  Type.String({ pattern: '^[\\t\\x20-\\x7e]*$' }),
  Type.Object({ file: Type.String({ minLength: 1 }) }, { additionalProperties: false }),
])

const Webhook = Type.Object(
  {
    url: Type.String({ format: 'webhook-url', expected: 'an http or https URL' }),
    format: Type.Enum(WEBHOOK_FORMATS),
    headers: Type.Optional(
      Type.Record(Type.String({ pattern: HEADER_NAME }), Type.String({ pattern: HEADER_VALUE }), {
        additionalProperties: false,
      }),
    ),
    routingKey: Type.Optional(Type.String({ pattern: '^[0-9A-Za-z]{32}$' })),
  },
  {
    additionalProperties: false,
    expected:
      '{url, format}, format json, slack, teams or pagerduty; headers {name: value} of one line each, if any; routingKey of 32 letters and digits for pagerduty',
  },
)

/** The schema of the configuration file, and of the effective configuration. */
export const ConfigSchema = Type.Object(
  {
    server: section('Where the proxy listens.', {
      host: Type.String({
        description:
          'Address to listen on; 127.0.0.1 for this machine only. localhost is 127.0.0.1 and ::1, and another name every address that it has on this machine.',
        default: '0.0.0.0',
        minLength: 1,
      }),
      port: Type.Integer({
        description: 'Port to listen on; 0 lets the system choose a free one, which the log names.',
        default: 8080,
        minimum: 0,
        maximum: 65_535,
      }),
      healthPort: Type.Optional(
        Type.Integer({
          description:
            'Port of a plain HTTP listener for /-/live, /-/ready and /-/metrics only, without TLS, client certificates or limits; for probes and the healthcheck of the image. 0 lets the system choose.',
          minimum: 0,
          maximum: 65_535,
        }),
      ),
      drainTimeoutMs: milliseconds(
        'How long SIGTERM waits for requests in flight before their connections are closed.',
        10_000,
        0,
        10 * 60_000,
      ),
      drainDelayMs: milliseconds(
        'How long /-/ready fails before that, so that new connections go elsewhere. Everything is served, and each response closes its connection.',
        0,
        0,
        10 * 60_000,
      ),
      maxHeaderBytes: count('The head of a request; then 431.', 16_384, 1024, 1_048_576),
      maxBodyBytes: count('The body of a request; then 413. 0 for any.', 0, 0, Number.MAX_SAFE_INTEGER),
      maxConnections: count(
        'Connections of clients at a time; more are closed at once. 0 for any.',
        0,
        0,
        1_000_000,
      ),
      maxRequestsPerConnection: count(
        'Requests on one connection, then it is closed. 0 for any.',
        0,
        0,
        1_000_000,
      ),
      headTimeoutMs: milliseconds('How long the head of a request may take; then 408.', 60_000, 100, DAY_MS),
      keepAliveTimeoutMs: milliseconds(
        'How long a connection may be idle. Longer than that of a gateway in front (an nginx ingress: 60 s).',
        72_000,
        1,
        DAY_MS,
      ),
      bodyPauseTimeoutMs: milliseconds(
        "How long a client's body may pause between two pieces; then 408. 0 for ever.",
        30_000,
        0,
        DAY_MS,
      ),
      bodyTimeoutMs: milliseconds(
        'How long the whole body of a guarded request may take; then 408. 0 for no limit.',
        60_000,
        0,
        DAY_MS,
      ),
      responsePauseTimeoutMs: milliseconds(
        'How long a client may read nothing of a response that waits for it; then its connection is closed. 0 for no limit.',
        30_000,
        0,
        DAY_MS,
      ),
      clientShare: Type.Number({
        description:
          'The part of upstream.maxConnections that one client address may use at a time, rounded up. 1 for all of it.',
        default: 0.75,
        minimum: 0.01,
        maximum: 1,
      }),
      trustProxy: Type.Array(
        Type.String({
          format: 'peer',
          expected: 'IP addresses, CIDR ranges, or loopback, linklocal, uniquelocal',
        }),
        {
          description:
            'Peers whose X-Forwarded-* and Forwarded headers are trusted and extended: addresses, CIDR ranges, or the names loopback, linklocal, uniquelocal. From any other peer these headers are replaced.',
          default: [],
        },
      ),
      tls: section('HTTPS towards the clients; both files or neither.', {
        certFile: Type.Optional(
          Type.String({ description: 'PEM file with the certificate and its chain.', minLength: 1 }),
        ),
        keyFile: Type.Optional(Type.String({ description: 'PEM file with the private key.', minLength: 1 })),
        clientCaFile: Type.Optional(
          Type.String({
            description: 'PEM file with authorities: every client has to show a certificate of theirs.',
            minLength: 1,
          }),
        ),
      }),
    }),
    upstream: section('focus-server.', {
      url: Type.String({
        description:
          'Where focus-server is; may hold a base path, and https is verified. Required by `serve`. Credentials in it stand in for those of a client that sends none.',
        format: 'upstream-url',
        expected: 'an http or https URL without query or fragment, like http://focus-server:5000',
      }),
      connectTimeoutMs: milliseconds('How long a connection may take to stand.', 2000, 1, DAY_MS),
      headersTimeoutMs: milliseconds(
        'How long focus-server may take until the head of its answer; then 504.',
        60_000,
        1,
        DAY_MS,
      ),
      bodyTimeoutMs: milliseconds(
        'How long the body of an answer may pause between two pieces; 0 for ever.',
        300_000,
        0,
        DAY_MS,
      ),
      maxHeaderBytes: count('The head of a response of focus-server; then 502.', 16_384, 1024, 1_048_576),
      keepAliveMs: milliseconds(
        'How long an idle connection is kept; less than focus-server keeps its own (uvicorn: 5 s, gunicorn: 2 s). 0 uses each for one request only.',
        3000,
        0,
        3_600_000,
      ),
      maxConnectionAgeMs: milliseconds(
        'How old a connection may be when a request is sent on it, so that traffic moves to new instances of focus-server; 0 for any age.',
        60_000,
        0,
        DAY_MS,
      ),
      maxConnections: count(
        'Connections to focus-server at a time; further requests wait for one.',
        256,
        1,
        100_000,
      ),
      maxQueued: count(
        'Requests that wait for a connection at a time; then 503, `overloaded`.',
        1024,
        0,
        1_000_000,
      ),
      queueTimeoutMs: milliseconds(
        'How long a request may wait for a connection; then the same.',
        5000,
        1,
        DAY_MS,
      ),
      tls: section('TLS towards focus-server, when its URL is https.', {
        insecureSkipVerify: Type.Boolean({
          description:
            'Accept any certificate, for a self-signed server. Prefer caFile: this lets anyone on the way read and change everything.',
          default: false,
        }),
        caFile: Type.Optional(
          Type.String({
            description:
              'PEM file with the authorities to trust instead of the usual ones; a self-signed certificate is its own.',
            minLength: 1,
          }),
        ),
        certFile: Type.Optional(
          Type.String({ description: 'PEM file with a certificate to show to focus-server.', minLength: 1 }),
        ),
        keyFile: Type.Optional(Type.String({ description: 'PEM file with its private key.', minLength: 1 })),
        serverName: Type.Optional(
          Type.String({
            description: 'Name to send and to verify, where it is not the host of the URL.',
            minLength: 1,
          }),
        ),
      }),
    }),
    basePath: Type.String({
      description:
        "What stands before focus-server's own paths in the URLs that clients send (/focus-server); taken off where present, before matching and forwarding.",
      default: '',
      // What clients would encode, resolve, or take for one of our own routes is never found in what they send.
      pattern: "^(?!/-(?:/|$))(?:/(?!\\.{1,2}(?:/|$))[\\w.~!$&'()*+,;=:@-]+)*$",
      expected: "'' or a path like /focus-server, without a slash at its end",
    }),
    probe: section("The proxy's own look at the metadata.", {
      path: Type.String({
        description: 'Path of the metadata, below the URL of the upstream.',
        default: '/live_metadata',
        pattern: '^/[^\\s#]*$',
        expected: "a path that begins with '/'",
      }),
      periodMs: milliseconds('From one look to the next, give or take a tenth.', 2000, 50, 3_600_000),
      timeoutMs: milliseconds('How long one look may take in all.', 1500, 10, 600_000),
      headers: Type.Record(Type.String(), HeaderValue, {
        description:
          'Headers to send with each probe, for an upstream that requires a key: a text, or {file: PATH}, which is followed on disk. With any, clients do not get their metadata from probes.',
        default: {},
        expected: 'names of headers, each with a text or {file: PATH}',
        secret: true,
      }),
    }),
    fiber: section('When the fiber counts as connected.', {
      readyWhen: Type.Array(Predicate, {
        description:
          'Predicates on the metadata that must all hold, asked in this order; the first that fails is named. Text is compared without case.',
        default: [...DEFAULT_READY_WHEN],
        minItems: 1,
      }),
    }),
    circuit: section('How many readings in a row move the circuit.', {
      waitingThreshold: count('Readings `waiting` that open it.', 1, 1, 1000),
      unreachableThreshold: count('Readings `unreachable` that open it.', 3, 1, 1000),
      readyThreshold: count('Readings `ready` that begin the recovery of an open circuit.', 2, 1, 1000),
    }),
    guard: section('What is guarded, and how.', {
      routes: Type.Array(Route, {
        description:
          'The routes that pass only when the circuit admits them; `:name` stands for any one segment. A path without base path, query, `.` and `..`; what cannot be guarded is an error.',
        default: [{ method: 'POST', path: '/configure' }],
      }),
      scope: Type.Enum(GUARD_SCOPES, {
        description:
          '`live` lets historic jobs (start_time and end_time are both whole numbers above 0) through while the circuit is open.',
        default: 'all',
      }),
      mode: Type.Enum(GUARD_MODES, {
        description: '`observe` forwards everything and only counts and marks what it would have refused.',
        default: 'enforce',
      }),
      statusCode: Type.Enum([400, 409, 424, 429, 503], {
        description:
          'Status of a refusal. Clients whose retries cannot be changed do not retry 400, 409 or 424.',
        default: 503,
      }),
      maxConcurrency: count(
        'Guarded requests in flight that a closed circuit admits; 0 for any number.',
        0,
        0,
        100_000,
      ),
      maxWaiting: count(
        'Guarded requests that are held at a time because they said `Prefer: wait=SECONDS`.',
        1000,
        0,
        100_000,
      ),
    }),
    retryAfter: section('What a refusal says in Retry-After.', {
      minSeconds: count('The least.', 1, 1, 3600),
      maxSeconds: count(
        'The most. urllib3 sleeps it in full, up to three times per blocked test.',
        5,
        1,
        3600,
      ),
    }),
    recovery: section('How a half-open circuit lets guarded requests back in.', {
      initialConcurrency: count('Guarded requests in flight when the recovery begins.', 2, 1, 100_000),
      maxConcurrency: count('Guarded requests in flight at its end.', 30, 1, 100_000),
      rampMs: milliseconds('From the one to the other; 0 closes the circuit at once.', 10_000, 0, DAY_MS),
    }),
    metadataCache: section('Metadata for clients.', {
      maxAgeMs: milliseconds(
        "How old the last reading may be to answer a client's GET of probe.path; 0 forwards them all.",
        1000,
        0,
        3_600_000,
      ),
    }),
    history: section('The ledger of outages.', {
      file: Type.Optional(
        Type.String({
          description:
            'File that keeps the outages over restarts, one for each replica; its directory has to exist. In memory only without it.',
          minLength: 1,
        }),
      ),
    }),
    override: section('A manual override that is declared in a file.', {
      file: Type.Optional(
        Type.String({
          description:
            'YAML or JSON file with state (open or closed), reason and until (RFC 3339), followed on disk. It may be missing. An override that is set over HTTP outranks it.',
          minLength: 1,
        }),
      ),
    }),
    notify: section('Who is told of outages.', {
      webhooks: Type.Array(Webhook, {
        description:
          'Each is sent a POST when an outage opens, lasts, and closes: `json` is plain, `slack` what its incoming webhooks take, `teams` an Adaptive Card for Workflows, `pagerduty` an event of its Events API v2.',
        default: [],
        secret: true,
      }),
      webhooksFile: Type.Optional(
        Type.String({
          description: 'File that holds this list as YAML or JSON, in place of notify.webhooks.',
          minLength: 1,
        }),
      ),
      secret: Type.Optional(
        Type.String({
          description:
            'Signs every notification as Standard Webhooks has it (webhook-signature); `whsec_` before base64, else the text itself.',
          format: 'webhook-secret',
          expected: 'text of 16 characters or more, or `whsec_` and base64 of 16 bytes or more',
          secret: true,
        }),
      ),
      secretFile: Type.Optional(
        Type.String({ description: 'File that holds it, in place of notify.secret.', minLength: 1 }),
      ),
      name: Type.Optional(
        Type.String({
          description: 'What notifications call this installation; the host of upstream.url without it.',
          minLength: 1,
          maxLength: 100,
          expected: 'text of 1 to 100 characters',
        }),
      ),
      overrides: Type.Boolean({
        description:
          'Whether notifications report manual overrides as well: set, replaced, removed, ended. PagerDuty is not sent them.',
        default: false,
      }),
      pageUrl: Type.Optional(
        Type.String({
          description:
            'Address of the status page as people reach it, such as https://focus.example.com/-/; each notification links to it.',
          format: 'page-url',
          expected: 'an http or https URL without credentials',
        }),
      ),
      lastingAfterMs: milliseconds(
        'How long an outage lasts until that is told, once.',
        900_000,
        1000,
        DAY_MS,
      ),
      cooldownMs: milliseconds(
        'Minimum interval between two "outage opened" notifications; an outage that still lasts then is reported late.',
        300_000,
        0,
        DAY_MS,
      ),
      retryForMs: milliseconds(
        'How long a notification that a webhook does not accept is sent again, at growing intervals.',
        3_600_000,
        0,
        DAY_MS,
      ),
    }),
    replicas: section('Several replicas that act as one, through a Redis or Valkey server.', {
      url: Type.Optional(
        Type.String({
          description:
            'The server through which replicas agree; without it a replica is alone. User, password, port and the number of the database may be left out; the package ioredis has to be installed.',
          format: 'redis-url',
          expected: 'a URL like redis://user:password@host:6379/0, or rediss:// for TLS',
          secret: true,
        }),
      ),
      urlFile: Type.Optional(
        Type.String({ description: 'File that holds the URL, in place of replicas.url.', minLength: 1 }),
      ),
      namespace: Type.Optional(
        Type.String({
          description:
            'What the keys of these replicas have in their names: the same for all replicas of one focus-server. Host, port and base path of upstream.url without it.',
          pattern: REPLICA_WORD,
          expected: 'text of 1 to 100 letters, digits and . _ : -',
        }),
      ),
      name: Type.Optional(
        Type.String({
          description: 'What this replica is called; the host name without it.',
          pattern: REPLICA_WORD,
          expected: 'text of 1 to 100 letters, digits and . _ : -',
        }),
      ),
      caFile: Type.Optional(
        Type.String({
          description:
            'PEM file with the authorities to trust instead of the usual ones, for a URL that begins with rediss://.',
          minLength: 1,
        }),
      ),
    }),
    admin: section('Who may change the state over HTTP.', {
      token: Type.Optional(
        Type.String({
          description:
            'Bearer token of PUT and DELETE /-/override; without it nothing can be changed over HTTP.',
          pattern: '^[\\x21-\\x7e]{16,}$',
          expected: 'text of 16 ASCII characters or more, without spaces',
          secret: true,
        }),
      ),
      tokenFile: Type.Optional(
        Type.String({ description: 'File that holds the token, in place of admin.token.', minLength: 1 }),
      ),
    }),
    log: section('The log, on standard output.', {
      level: Type.Enum(LOG_LEVELS, {
        description: 'The least severe lines to write; debug has a line for each forwarded request.',
        default: 'info',
      }),
      format: Type.Enum(LOG_FORMATS, { description: '`pretty` is for people.', default: 'json' }),
    }),
  },
  {
    $id: 'focus-breaker',
    title: 'focus-breaker configuration',
    additionalProperties: false,
  },
)

/** The effective configuration: every option at its value, defaults filled in, paths and URLs checked. */
export type Config = DeepReadonly<Static<typeof ConfigSchema>>

type DeepReadonly<T> = T extends readonly (infer E)[]
  ? readonly DeepReadonly<E>[]
  : T extends object
    ? { readonly [K in keyof T]: DeepReadonly<T[K]> }
    : T
