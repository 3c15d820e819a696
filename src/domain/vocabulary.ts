/**
 * The fixed words of the product. Each list is defined once: types, configuration, JSON schemas and metric labels
 * are derived from it. Clients, dashboards and files on disk rely on these words.
 */

/** The states of the circuit: `closed` admits guarded requests, `open` refuses them, `half-open` admits a few. */
export const CIRCUIT_STATES = ['closed', 'open', 'half-open'] as const

/** One state of the circuit. */
export type CircuitState = (typeof CIRCUIT_STATES)[number]

/** The kinds of a failed reading: the fiber is missing, or the metadata cannot be read. */
export const FAILED_READING_KINDS = ['waiting', 'unreachable'] as const

/** The kind of a failed reading. */
export type FailedReadingKind = (typeof FAILED_READING_KINDS)[number]

/** The kinds of readings. */
export const READING_KINDS = ['ready', ...FAILED_READING_KINDS] as const

/** The kind of a reading. */
export type ReadingKind = (typeof READING_KINDS)[number]

/**
 * Where a reading comes from: the proxy's own probe, focus-server's response to a guarded request, or metadata that
 * a client fetched.
 */
export const READING_SOURCES = ['probe', 'configure', 'client'] as const

/** The source of a reading. */
export type ReadingSource = (typeof READING_SOURCES)[number]

/** Why the circuit is not closed: no reading yet, or the kind of the readings that opened it. */
export const CAUSES = ['starting', ...FAILED_READING_KINDS] as const

/** The cause of an open or half-open circuit. */
export type Cause = (typeof CAUSES)[number]

/**
 * What was in force at a moment, for people and statistics: the state of the circuit with its cause, or what outranked
 * it. `stopped` is an override that refuses, `maintenance` a planned one, `let-through` one that admits, and
 * `not-running` a time in which focus-breaker was not running. `phaseOf` decides.
 */
export const PHASES = [
  'ready',
  'waiting',
  'unreachable',
  'recovering',
  'starting',
  'stopped',
  'maintenance',
  'let-through',
  'not-running',
] as const

/** What was in force at a moment. */
export type Phase = (typeof PHASES)[number]

/** How an override ended: it expired, an operator removed it, or another override replaced it. */
export const OVERRIDE_ENDS = ['expired', 'removed', 'replaced'] as const

/** The end of an override. */
export type OverrideEnd = (typeof OVERRIDE_ENDS)[number]

/** How reliable a forecast is, by the number of outages that it is based on. */
export const CONFIDENCES = ['low', 'fair', 'good'] as const

/** The confidence of a forecast. */
export type Confidence = (typeof CONFIDENCES)[number]

/** Why a guarded request is refused: the `status` of the refusal. */
export const REFUSAL_CODES = [
  'waiting_for_fiber',
  'metadata_unavailable',
  'recovering',
  'overloaded',
  'forced_open',
] as const

/** The code of a refusal. */
export type RefusalCode = (typeof REFUSAL_CODES)[number]

/** The states that a manual override can force: `open` refuses, `closed` admits. */
export const OVERRIDE_STATES = ['open', 'closed'] as const satisfies readonly CircuitState[]

/** The state that a manual override forces. */
export type OverrideState = (typeof OVERRIDE_STATES)[number]

/** Whether requests are refused (`enforce`), or only counted and marked (`observe`). */
export const GUARD_MODES = ['enforce', 'observe'] as const

/** The mode of the guard. */
export type GuardMode = (typeof GUARD_MODES)[number]

/** Which guarded requests need the fiber: all of them, or only live jobs. */
export const GUARD_SCOPES = ['all', 'live'] as const

/** The scope of the guard. */
export type GuardScope = (typeof GUARD_SCOPES)[number]

/** The operators of a predicate that compares text or a boolean. */
export const EQUALITY_OPERATORS = ['==', '!='] as const

/** The operators of a predicate that compares a number. */
export const NUMBER_OPERATORS = ['>', '>=', '<', '<=', ...EQUALITY_OPERATORS] as const

/**
 * Why an exchange with focus-server failed: the error types of RFC 9209, section 2.3. Only `connection_limit_reached`
 * does not concern focus-server: this machine has no descriptors, ports or buffers left.
 */
export const UPSTREAM_FAILURE_KINDS = [
  'connection_refused',
  'connection_terminated',
  'connection_timeout',
  'dns_error',
  'destination_ip_unroutable',
  'destination_ip_prohibited',
  'connection_limit_reached',
  'tls_certificate_error',
  'tls_protocol_error',
  'http_protocol_error',
  'http_response_timeout',
  'http_response_header_section_size',
  'proxy_internal_error',
] as const

/** The kind of a failed exchange with focus-server. */
export type UpstreamFailureKind = (typeof UPSTREAM_FAILURE_KINDS)[number]

/**
 * Why a probe did not produce a reading: this machine had no descriptor, port or memory left for it, or the process was
 * suspended meanwhile.
 */
export const NOT_COUNTED = ['exhausted', 'stalled'] as const

/** The reason why a probe did not produce a reading. */
export type NotCounted = (typeof NOT_COUNTED)[number]

/** What a notification reports about an outage. */
export const OUTAGE_NOTIFICATION_KINDS = ['outage.opened', 'outage.lasting', 'outage.closed'] as const

/** The kind of a notification about an outage. */
export type OutageNotificationKind = (typeof OUTAGE_NOTIFICATION_KINDS)[number]

/** What a notification reports about a manual override. */
export const OVERRIDE_NOTIFICATION_KINDS = [
  'override.set',
  'override.replaced',
  'override.removed',
  'override.ended',
] as const

/** The kind of a notification about an override. */
export type OverrideNotificationKind = (typeof OVERRIDE_NOTIFICATION_KINDS)[number]

/** The kind of a notification. */
export type NotificationKind = OutageNotificationKind | OverrideNotificationKind

/** The formats of a notification: plain JSON, or what Slack's incoming webhooks, Teams' Workflows or PagerDuty accept. */
export const WEBHOOK_FORMATS = ['json', 'slack', 'teams', 'pagerduty'] as const

/** The format of a webhook's notifications. */
export type WebhookFormat = (typeof WEBHOOK_FORMATS)[number]

/** The log levels of pino, most severe first; `silent` writes nothing. */
export const LOG_LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const

/** The least severe level that is logged. */
export type LogLevel = (typeof LOG_LEVELS)[number]

/** The formats of the log: JSON lines, or lines for people. */
export const LOG_FORMATS = ['json', 'pretty'] as const

/** The format of the log. */
export type LogFormat = (typeof LOG_FORMATS)[number]

/** Methods that are never forwarded: CONNECT opens a tunnel, and TRACE echoes headers that may be secret. */
export const REFUSED_METHODS: readonly string[] = ['CONNECT', 'TRACE']
