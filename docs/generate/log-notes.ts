/** What a line of the log means, and what to do about it. */
export type LogNote = {
  readonly meaning: string
  readonly action?: string
  /** Details of the members of the line. */
  readonly fields?: string
}

/**
 * A note on each line of the log, by its message in the source; `…` is a part that varies. `npm run docs` and
 * `npm run check` fail for a message without a note, and for a note without a message.
 */
export const LOG_NOTES: Readonly<Record<string, LogNote>> = {
  'uncaught exception, exiting': {
    meaning: 'An unhandled error ended the process, with exit code 1.',
    action: 'Report it as a bug.',
  },

  'request failed: internal error': {
    meaning: 'A request got a 500.',
    action: 'Report it as a bug.',
  },
  'forwarding failed: internal error': {
    meaning: 'A request could not be forwarded. Logged at most once every ten seconds.',
    action: 'Report it as a bug.',
  },
  'configuration was not reloaded: it is invalid': {
    meaning: 'A reload found an invalid configuration. The previous one stays in force.',
    action: 'Fix the configuration and reload it again.',
  },

  'circuit opened: …': {
    meaning:
      'Guarded requests are refused from now on, because the fiber is missing or the metadata cannot be read.',
    action: 'Check the fiber, or focus-server.',
    fields:
      '`missing` names the field that shows that the fiber is missing; `problem` states why the metadata could not be read.',
  },
  'circuit stayed open: …': {
    meaning: 'The cause of the outage has changed, or the first reading after the start was a failed one.',
    action: 'Check the fiber, or focus-server.',
  },
  'override set: circuit forced …': { meaning: 'An operator or `override.file` has set a manual override.' },
  'override removed': { meaning: 'A manual override was removed. `by` is the address that removed it.' },
  'override ended': { meaning: 'A manual override has expired.' },
  'resuming the override recorded in the history file: circuit forced …': {
    meaning: 'Logged at startup: the override of an earlier process is still in force.',
    action: 'Remove the override if it is no longer needed.',
  },
  'override file was not applied': {
    meaning:
      'The content of `override.file` is invalid. The last valid content stays in force. Logged once for each problem.',
    action: 'Fix the file.',
  },
  'metadata reports the fiber as connected, but configure reports it as missing': {
    meaning: 'focus-server contradicts itself. The circuit follows configure.',
    action: 'Report this to the owners of focus-server.',
  },
  'cannot use Redis; this replica continues on its own': {
    meaning:
      'This replica acts on its own readings. Logged once until Redis is reached again; further problems are logged at `debug`.',
    action: 'Check Redis.',
  },
  'requests rejected: upstream queue full': {
    meaning: 'The upstream queue was full, and requests got a 503. Logged at most once every ten seconds.',
    action: 'Find out why focus-server is slow.',
  },
  'requests failed at the upstream': {
    meaning: 'Forwarded requests got a 502, 503 or 504. Logged at most once every ten seconds.',
    action: 'Check focus-server.',
    fields: 'A count for each [kind of failure](responses.md#errors-of-forwarded-requests).',
  },
  'probes not counted: they failed because of a problem on this machine': {
    meaning:
      'Probes were not evaluated: no file descriptor, port or memory was left (`exhausted`), or the process was suspended (`stalled`). Logged at most once every ten seconds.',
    action: 'Raise the limit of open files, or give the process more CPU.',
    fields: 'A count for each reason.',
  },
  'probes slowed: focus-server responded with 429 and Retry-After': {
    meaning:
      'Probes pause until `until`, for at most a minute at a time. `/-/status` shows it as `probes.slowedUntil`.',
    action: 'Allow the probes at focus-server, or raise `probe.periodMs`.',
  },
  'admin authentication failed': {
    meaning: 'Requests with a wrong admin token were rejected. Logged at most once every ten seconds.',
    action: 'Check the address in `last`.',
  },
  'these options need a restart': {
    meaning: 'A reload found changes to options that need a restart.',
    action: 'Restart.',
  },
  'log lines were dropped': {
    meaning: 'Lines could not be written. This line is written when the log works again.',
    action: 'Check the disk, or the process that reads the log.',
    fields: '`code` is the error code; `EAGAIN` means that the reader was too slow.',
  },
  'Node.js warning': { meaning: 'Node.js reported a warning.', action: 'Report it as a bug.' },
  'notification was not delivered': {
    meaning: 'A webhook did not accept a notification, and delivery is no longer retried.',
    action: 'Check the receiver.',
    fields:
      '`item` is the position of the webhook in the list; `attempts` is 0 if the notification was dropped before its first attempt.',
  },
  'cannot write the notifications file; keeping notifications in memory': {
    meaning: 'Undelivered notifications would be lost if the process ended now.',
    action: 'Free disk space, or check the permissions.',
  },
  'cannot write the history file; keeping outages in memory': {
    meaning: 'The history file cannot be written; the history is kept in memory.',
    action: 'Free disk space, or check the permissions.',
  },
  'another process is writing this history file; keeping the history in memory until it stops (each process needs its own file)':
    {
      meaning: 'The history file is locked. This process takes it over when the other one stops.',
      action: 'Give each process its own file. During a rolling update there is nothing to do.',
      fields: '`problem` names the process and its host.',
    },
  'a newer version wrote this history file; keeping the history in memory (run that version, or set history.file to another file)':
    {
      meaning: 'The file is left unchanged.',
      action: 'Run that version, or use another file. See [Upgrading](../how-to/upgrading.md).',
      fields: '`problem` names both versions.',
    },
  'corrected impossible times in the history file; check the system clock': {
    meaning:
      'Records start in the future or end before they start. They are shown with the current time, are not used for forecasts, and stay unchanged in the file.',
    action: 'Check the system clock: it was set back or is slow.',
    fields: '`corrected` counts the records.',
  },
  'skipped malformed lines in the history file': {
    meaning: 'Lines of the history file are malformed. A single one may come from an interrupted write.',
    action: 'If there is more than one, find out what else writes to the file.',
  },
  'cannot export traces; run: npm install @fastify/otel @opentelemetry/sdk-node': {
    meaning: 'Traces are configured, but cannot be exported.',
    action: 'Install the packages that the line names.',
  },
  'certificate was not renewed': {
    meaning:
      'A changed certificate or key cannot be used. The previous one stays in force. Logged once for each problem.',
    action: 'Check the files. A certificate and its key must match.',
  },
  'secret was not renewed': {
    meaning:
      'A changed secret cannot be used. The previous one stays in force. Logged once for each problem.',
    action: 'Check the file.',
  },

  listening: {
    meaning: 'The proxy accepts requests.',
    fields: '`moreUrls` are further addresses; `health` is the listener of `server.healthPort`.',
  },
  'circuit half-opened…': { meaning: 'The fiber is back. Guarded requests are admitted a few at a time.' },
  'circuit closed…': {
    meaning: 'All guarded requests are admitted. At startup, this line is logged at `debug`.',
  },
  'guarded requests were refused': {
    meaning: 'Logged at most once every ten seconds.',
    action: 'If this continues, contact the owners of the clients.',
    fields: 'A count for each reason. `topClients` and `topRuns` are the three with the most requests.',
  },
  'guarded requests would have been refused': {
    meaning: 'The same in mode `observe`, where the requests were forwarded.',
  },
  'requests sent again: focus-server had closed the idle connection (lower upstream.keepAliveMs)': {
    meaning:
      'Safe requests were sent on a connection that focus-server was just closing, and were sent again. Logged at most once every ten seconds.',
    action: "Set `upstream.keepAliveMs` below focus-server's own idle timeout.",
  },
  'probes resumed at the configured interval': { meaning: 'Probes are sent every `probe.periodMs` again.' },
  'joined the other replicas': {
    meaning: 'This replica is connected to Redis, and there are other replicas.',
    fields: '`redis` is the host and port.',
  },
  'connected to Redis; this is the only replica': {
    meaning: 'This replica is connected to Redis, and there are no other replicas.',
  },
  'resuming the outage recorded in the history file': {
    meaning: 'Logged at startup: the outage of an earlier process continues.',
  },
  'an override set over HTTP will not survive a restart: history.file is not configured': {
    meaning: 'Logged at startup, with `admin.token` and without `history.file`.',
    action: 'Set `history.file` if overrides should survive a restart.',
  },
  'history file is writable again': { meaning: 'The history file can be written again.' },
  'notifications file is writable again': { meaning: 'The notifications file can be written again.' },
  'configuration was reloaded': { meaning: 'The options in `applied` have new values.' },
  'certificate was renewed': { meaning: 'New connections use the changed files.' },
  'secret was renewed': { meaning: 'The changed secret is in force.' },
  'ignoring X-Forwarded-For from an untrusted peer; all its clients count as one (set server.trustProxy)': {
    meaning: 'Logged once, while `server.trustProxy` is empty.',
    action:
      'If the peer is your gateway, add it to `server.trustProxy`. Until then, all its clients count as one.',
  },
  'exporting traces': { meaning: 'OpenTelemetry is configured, and its packages are installed.' },
  retiring: { meaning: 'A stop signal was received. `/-/ready` fails, but requests are still served.' },
  draining: { meaning: 'No new connections are accepted. Requests in flight may finish.' },
  stopped: { meaning: 'The process ends with exit code 0.' },

  'this replica now probes': {
    meaning: 'While focus-server cannot be reached, the replicas take turns probing.',
  },
  'another replica now probes': { meaning: 'This replica has stopped probing.' },
  'request completed': { meaning: 'One line for each request. The query is left out.' },
  'reading taken': { meaning: 'One line for each reading.' },
}
