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
 * Declares every option once: type, default, bounds and description.
 *
 * `config/default.yaml`, `config/schema.json` and the table of `docs/reference/configuration.md` are generated from
 * this schema, the names of environment variables are derived from it, and `Config` is its type.
 */

/** A group of options, all of which may be omitted. */
function section<P extends Record<string, TSchema>>(description: string, properties: P) {
  return Type.Object(properties, { description, additionalProperties: false })
}

const milliseconds = (description: string, initial: number, minimum: number, maximum: number) =>
  Type.Integer({ description, default: initial, minimum, maximum })

const count = (description: string, initial: number, minimum: number, maximum: number) =>
  Type.Integer({ description, default: initial, minimum, maximum })

const DAY_MS = 86_400_000

/** The name of a header that an operator may add; `consistency` rejects some of them. */
const HEADER_NAME = '^[A-Za-z0-9][A-Za-z0-9_-]*$'

/** The value of a header on one line, without leading or trailing spaces. */
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
    method: Type.String({ pattern: '^[A-Z]+$', expected: 'an HTTP method in capital letters' }),
    path: Type.String({ pattern: '^/', expected: "a path that starts with '/'" }),
  },
  { additionalProperties: false, expected: '{method, path}, the method in capital letters' },
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
      '{url, format} with format json, slack, teams or pagerduty; optional headers {name: value}, each value on one line; for pagerduty, routingKey of 32 letters and digits',
  },
)

/** The schema of the configuration file, and of the effective configuration. */
export const ConfigSchema = Type.Object(
  {
    server: section('Where the proxy listens.', {
      host: Type.String({
        description:
          'Address to listen on. 127.0.0.1 accepts connections from this machine only, localhost means 127.0.0.1 and ::1, and any other name means all addresses of this machine that it resolves to.',
        default: '0.0.0.0',
        minLength: 1,
      }),
      port: Type.Integer({
        description: 'Port to listen on. With 0 the system chooses a free port, which is logged.',
        default: 8080,
        minimum: 0,
        maximum: 65_535,
      }),
      healthPort: Type.Optional(
        Type.Integer({
          description:
            'Port of a plain HTTP listener that serves only /-/live, /-/ready and /-/metrics, without TLS, client certificates or limits. Meant for Kubernetes probes and the health check of the image. With 0 the system chooses a free port.',
          minimum: 0,
          maximum: 65_535,
        }),
      ),
      drainTimeoutMs: milliseconds(
        'How long the proxy waits after SIGTERM for requests in flight before it closes their connections.',
        10_000,
        0,
        10 * 60_000,
      ),
      drainDelayMs: milliseconds(
        'How long /-/ready fails before the drain starts, so that new connections go to another instance. Requests are still served, and each response closes its connection.',
        0,
        0,
        10 * 60_000,
      ),
      maxHeaderBytes: count(
        'Maximum size of the request line and headers of a request. A larger head gets 431.',
        16_384,
        1024,
        1_048_576,
      ),
      maxBodyBytes: count(
        'Maximum size of a request body. A larger body gets 413. 0 means no limit.',
        0,
        0,
        Number.MAX_SAFE_INTEGER,
      ),
      maxConnections: count(
        'Maximum number of open client connections. Further connections are closed at once. 0 means no limit.',
        0,
        0,
        1_000_000,
      ),
      maxRequestsPerConnection: count(
        'Number of requests after which a client connection is closed. 0 means no limit.',
        0,
        0,
        1_000_000,
      ),
      headTimeoutMs: milliseconds(
        'How long a client may take to send the request line and headers. A slower request gets 408.',
        60_000,
        100,
        DAY_MS,
      ),
      keepAliveTimeoutMs: milliseconds(
        'How long a client connection may be idle before it is closed. Set it higher than the idle timeout of a gateway in front of the proxy (nginx ingress: 60 s).',
        72_000,
        1,
        DAY_MS,
      ),
      bodyPauseTimeoutMs: milliseconds(
        'How long a request body may pause between two chunks. A longer pause gets 408. 0 means no limit.',
        30_000,
        0,
        DAY_MS,
      ),
      bodyTimeoutMs: milliseconds(
        'How long the whole body of a guarded request may take. A slower body gets 408. 0 means no limit.',
        60_000,
        0,
        DAY_MS,
      ),
      responsePauseTimeoutMs: milliseconds(
        'How long a client may stop reading a response before its connection is closed. 0 means no limit.',
        30_000,
        0,
        DAY_MS,
      ),
      clientShare: Type.Number({
        description:
          'Share of upstream.maxConnections that one client address may use at a time, rounded up to whole connections. 1 means all of them.',
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
            'Peers whose X-Forwarded-* and Forwarded headers are trusted and extended: addresses, CIDR ranges, or the names loopback, linklocal, uniquelocal. These headers are replaced when they come from any other peer.',
          default: [],
        },
      ),
      tls: section('HTTPS for clients. Set certFile and keyFile together.', {
        certFile: Type.Optional(
          Type.String({ description: 'PEM file with the certificate chain.', minLength: 1 }),
        ),
        keyFile: Type.Optional(Type.String({ description: 'PEM file with the private key.', minLength: 1 })),
        clientCaFile: Type.Optional(
          Type.String({
            description:
              'PEM file with certificate authorities. When set, every client must present a certificate issued by one of them.',
            minLength: 1,
          }),
        ),
      }),
    }),
    upstream: section('The connection to focus-server.', {
      url: Type.String({
        description:
          'URL of focus-server. It may contain a base path; the certificate of an https URL is verified. Required by `serve`. Credentials in the URL are sent for clients that send none.',
        format: 'upstream-url',
        expected: 'an http or https URL without query or fragment, like http://focus-server:5000',
      }),
      connectTimeoutMs: milliseconds('Connect timeout.', 2000, 1, DAY_MS),
      headersTimeoutMs: milliseconds(
        'How long focus-server may take to send the headers of its response. A slower response becomes a 504.',
        60_000,
        1,
        DAY_MS,
      ),
      bodyTimeoutMs: milliseconds(
        'How long a response body may pause between two chunks. 0 means no limit.',
        300_000,
        0,
        DAY_MS,
      ),
      maxHeaderBytes: count(
        "Maximum size of the headers of focus-server's response. Larger headers become a 502.",
        16_384,
        1024,
        1_048_576,
      ),
      keepAliveMs: milliseconds(
        "How long an idle connection to focus-server is kept. Set it lower than focus-server's own keep-alive timeout (uvicorn: 5 s, gunicorn: 2 s). With 0 each connection is used for one request.",
        3000,
        0,
        3_600_000,
      ),
      maxConnectionAgeMs: milliseconds(
        'Maximum age at which a connection to focus-server is still used for a new request, so that traffic moves to new instances of focus-server. 0 means no limit.',
        60_000,
        0,
        DAY_MS,
      ),
      maxConnections: count(
        'Maximum number of connections to focus-server. Further requests are queued.',
        256,
        1,
        100_000,
      ),
      maxQueued: count(
        'Maximum number of requests in the upstream queue. Further requests get 503 `overloaded`.',
        1024,
        0,
        1_000_000,
      ),
      queueTimeoutMs: milliseconds(
        'How long a request may wait in the upstream queue. After that it gets 503 `overloaded`.',
        5000,
        1,
        DAY_MS,
      ),
      tls: section('TLS for an https URL of focus-server.', {
        insecureSkipVerify: Type.Boolean({
          description:
            'Accept any certificate, for example a self-signed one. Prefer caFile: without verification, anyone on the network path can read and change all traffic.',
          default: false,
        }),
        caFile: Type.Optional(
          Type.String({
            description:
              "PEM file with the certificate authorities to trust instead of Node's own list. For a self-signed certificate, use the certificate itself.",
            minLength: 1,
          }),
        ),
        certFile: Type.Optional(
          Type.String({
            description: 'PEM file with the client certificate to present to focus-server.',
            minLength: 1,
          }),
        ),
        keyFile: Type.Optional(
          Type.String({
            description: 'PEM file with the private key of the client certificate.',
            minLength: 1,
          }),
        ),
        serverName: Type.Optional(
          Type.String({
            description: 'Server name to send and verify, if it differs from the host of the URL.',
            minLength: 1,
          }),
        ),
      }),
    }),
    basePath: Type.String({
      description:
        'Prefix of the paths in the URLs that clients send, such as /focus-server. It is removed, if present, before a request is matched and forwarded.',
      default: '',
      // Clients would encode or resolve any other path, or take it for one of our own routes, so it would never match.
      pattern: "^(?!/-(?:/|$))(?:/(?!\\.{1,2}(?:/|$))[\\w.~!$&'()*+,;=:@-]+)*$",
      expected: "'' or a path like /focus-server, without a trailing slash",
    }),
    probe: section('How the proxy probes the metadata of focus-server.', {
      path: Type.String({
        description: 'Path of the metadata, relative to upstream.url.',
        default: '/live_metadata',
        pattern: '^/[^\\s#]*$',
        expected: "a path that starts with '/'",
      }),
      periodMs: milliseconds('Interval between two probes, varied by up to 10 percent.', 2000, 50, 3_600_000),
      timeoutMs: milliseconds('Timeout of a whole probe.', 1500, 10, 600_000),
      headers: Type.Record(Type.String(), HeaderValue, {
        description:
          'Headers to send with each probe, for an upstream that requires a key. A value is a string or {file: PATH}; the file is read again when it changes. If any header is set, clients do not get metadata from the results of probes.',
        default: {},
        expected: 'header names, each with a string or {file: PATH}',
        secret: true,
      }),
    }),
    fiber: section('When the fiber counts as connected.', {
      readyWhen: Type.Array(Predicate, {
        description:
          'Predicates on the metadata, checked in this order. The fiber counts as connected when all are true; otherwise the first that fails is reported. Text comparison ignores case.',
        default: [...DEFAULT_READY_WHEN],
        minItems: 1,
      }),
    }),
    circuit: section('How many consecutive readings change the state of the circuit.', {
      waitingThreshold: count('Consecutive `waiting` readings that open the circuit.', 1, 1, 1000),
      unreachableThreshold: count('Consecutive `unreachable` readings that open the circuit.', 3, 1, 1000),
      readyThreshold: count(
        'Consecutive `ready` readings that start the recovery of an open circuit.',
        2,
        1,
        1000,
      ),
    }),
    guard: section('Which requests are guarded, and how.', {
      routes: Type.Array(Route, {
        description:
          'Routes whose requests pass only when the circuit admits them. `:name` matches any one path segment. Write paths without the base path, a query, `.` or `..`; a route that cannot be guarded is a configuration error.',
        default: [{ method: 'POST', path: '/configure' }],
      }),
      scope: Type.Enum(GUARD_SCOPES, {
        description:
          'With `live`, an open circuit still admits historic jobs: those whose start_time and end_time are both integers above 0. `all` guards every job.',
        default: 'all',
      }),
      mode: Type.Enum(GUARD_MODES, {
        description:
          '`observe` forwards every request, and only counts and marks those that `enforce` would refuse.',
        default: 'enforce',
      }),
      statusCode: Type.Enum([400, 409, 424, 429, 503], {
        description:
          'HTTP status of a refusal. Use 400, 409 or 424 if clients retry 503 or 429 and their retries cannot be changed.',
        default: 503,
      }),
      maxConcurrency: count(
        'Maximum number of guarded requests in flight while the circuit is closed. 0 means no limit.',
        0,
        0,
        100_000,
      ),
      maxWaiting: count(
        'Maximum number of guarded requests that wait because they were sent with `Prefer: wait=SECONDS`.',
        1000,
        0,
        100_000,
      ),
    }),
    retryAfter: section('The Retry-After header of a refusal.', {
      minSeconds: count('Minimum value.', 1, 1, 3600),
      maxSeconds: count(
        'Maximum value. urllib3 waits the full time, up to three times per refused request.',
        5,
        1,
        3600,
      ),
    }),
    recovery: section('How a half-open circuit lets guarded requests back in.', {
      initialConcurrency: count('Concurrency limit at the start of the ramp.', 2, 1, 100_000),
      maxConcurrency: count('Concurrency limit at the end of the ramp.', 30, 1, 100_000),
      rampMs: milliseconds('Duration of the ramp. 0 closes the circuit at once.', 10_000, 0, DAY_MS),
    }),
    metadataCache: section('Metadata for clients, served from the last reading.', {
      maxAgeMs: milliseconds(
        "Maximum age of a reading that is used to answer a client's GET of probe.path. With 0 every such request is forwarded.",
        1000,
        0,
        3_600_000,
      ),
    }),
    history: section('The outage history.', {
      file: Type.Optional(
        Type.String({
          description:
            'File that keeps the outages across restarts; each replica needs its own. The directory must exist. Without this option, outages are kept in memory only.',
          minLength: 1,
        }),
      ),
    }),
    override: section('A manual override declared in a file.', {
      file: Type.Optional(
        Type.String({
          description:
            'YAML or JSON file with state (open or closed), reason and until (RFC 3339). The file may be absent, and is read again when it changes. An override set over HTTP takes precedence.',
          minLength: 1,
        }),
      ),
    }),
    notify: section('Notifications of outages.', {
      webhooks: Type.Array(Webhook, {
        description:
          'Webhooks that receive a POST when an outage opens, when it lasts long, and when it closes. Formats: `json` (plain JSON), `slack` (incoming webhooks), `teams` (an Adaptive Card for Workflows), `pagerduty` (Events API v2).',
        default: [],
        secret: true,
      }),
      webhooksFile: Type.Optional(
        Type.String({
          description: 'YAML or JSON file with this list, instead of notify.webhooks.',
          minLength: 1,
        }),
      ),
      secret: Type.Optional(
        Type.String({
          description:
            'Secret used to sign every notification as specified by Standard Webhooks (header webhook-signature): `whsec_` followed by base64, or any other text, which is used as is.',
          format: 'webhook-secret',
          expected: 'text of 16 characters or more, or `whsec_` and base64 of 16 bytes or more',
          secret: true,
        }),
      ),
      secretFile: Type.Optional(
        Type.String({ description: 'File with the secret, instead of notify.secret.', minLength: 1 }),
      ),
      name: Type.Optional(
        Type.String({
          description: 'Name of this installation in notifications. Default: the host of upstream.url.',
          minLength: 1,
          maxLength: 100,
          expected: 'text of 1 to 100 characters',
        }),
      ),
      overrides: Type.Boolean({
        description:
          'Whether to send notifications when a manual override is set, replaced, removed or ended. They are not sent to PagerDuty.',
        default: false,
      }),
      pageUrl: Type.Optional(
        Type.String({
          description:
            'Public URL of the status page, such as https://focus.example.com/-/. Each notification links to it.',
          format: 'page-url',
          expected: 'an http or https URL without credentials',
        }),
      ),
      lastingAfterMs: milliseconds(
        'How long an outage must last before one "outage lasts" notification is sent.',
        900_000,
        1000,
        DAY_MS,
      ),
      cooldownMs: milliseconds(
        'Minimum interval between two "outage opened" notifications. An outage that opens earlier is reported at the end of the interval if it is still open.',
        300_000,
        0,
        DAY_MS,
      ),
      retryForMs: milliseconds(
        'How long to retry a notification that a webhook does not accept. The interval between attempts grows.',
        3_600_000,
        0,
        DAY_MS,
      ),
    }),
    replicas: section('Coordination of several replicas through a Redis or Valkey server.', {
      url: Type.Optional(
        Type.String({
          description:
            'URL of the Redis or Valkey server that coordinates the replicas. Without it, each replica decides on its own. User, password, port and database number are optional. Requires the package ioredis.',
          format: 'redis-url',
          expected: 'a URL like redis://user:password@host:6379/0, or rediss:// for TLS',
          secret: true,
        }),
      ),
      urlFile: Type.Optional(
        Type.String({ description: 'File with the URL, instead of replicas.url.', minLength: 1 }),
      ),
      namespace: Type.Optional(
        Type.String({
          description:
            'Part of the key names in Redis. Must be the same for all replicas of one focus-server. Default: host, port and base path of upstream.url.',
          pattern: REPLICA_WORD,
          expected: 'text of 1 to 100 letters, digits and . _ : -',
        }),
      ),
      name: Type.Optional(
        Type.String({
          description: 'Name of this replica. Default: the host name.',
          pattern: REPLICA_WORD,
          expected: 'text of 1 to 100 letters, digits and . _ : -',
        }),
      ),
      caFile: Type.Optional(
        Type.String({
          description:
            "PEM file with the certificate authorities to trust instead of Node's own list, for a URL that starts with rediss://.",
          minLength: 1,
        }),
      ),
    }),
    admin: section('Authentication for changes over HTTP.', {
      token: Type.Optional(
        Type.String({
          description:
            'Bearer token for PUT and DELETE /-/override and POST /-/reload. Without a token, nothing can be changed over HTTP.',
          pattern: '^[\\x21-\\x7e]{16,}$',
          expected: 'text of 16 ASCII characters or more, without spaces',
          secret: true,
        }),
      ),
      tokenFile: Type.Optional(
        Type.String({ description: 'File with the token, instead of admin.token.', minLength: 1 }),
      ),
    }),
    log: section('The log, on standard output.', {
      level: Type.Enum(LOG_LEVELS, {
        description: 'Lowest level to log. debug logs a line for each forwarded request.',
        default: 'info',
      }),
      format: Type.Enum(LOG_FORMATS, {
        description: '`json` for machines, `pretty` for people.',
        default: 'json',
      }),
    }),
  },
  {
    $id: 'focus-breaker',
    title: 'focus-breaker configuration',
    additionalProperties: false,
  },
)

/** The effective configuration: the value of every option, with defaults filled in and paths and URLs checked. */
export type Config = DeepReadonly<Static<typeof ConfigSchema>>

type DeepReadonly<T> = T extends readonly (infer E)[]
  ? readonly DeepReadonly<E>[]
  : T extends object
    ? { readonly [K in keyof T]: DeepReadonly<T[K]> }
    : T
