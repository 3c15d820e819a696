/**
 * Operations that must be atomic in Redis. They use the time of Redis, so that no replica's clock decides about the lease of
 * another. `redis.call('TIME')` in a script that writes needs Redis 5 or later, or Valkey.
 */

/** The approximate number of entries in the log. A joining replica needs those since the last stored state. */
const MAX_ENTRIES = 10_000

/** How long keys are kept after the last renewal: a week. */
export const EXPIRE_MS = 604_800_000

/** How long a replica is listed after its last report. */
const LISTED_MS = 60_000

/** Returned if the state is not the one that the replica has joined: it was lost, or this is another server. */
export const LOST = 'lost'

/** Returned for a time in the future, which would make later readings of other replicas look old. */
export const TOO_NEW = 'too new'

/** The maximum by which a time may be ahead of the common time. Clocks are corrected once a second. */
const AHEAD_MS = 2000

/** The possible error of a replica's common time: half of the longest round trip to Redis. */
const INEXACT_MS = 500

/** Returned if another replica has the lease. */
export const NOT_PROBER = 'not prober'

/**
 * Appends an entry to the log.
 * KEYS: log, state, prober. ARGV: the epoch; the token of the prober's lease, or '' if none is needed; the time of the
 * message, or 0; the fields of the entry. Returns the id, `lost`, `not prober` or `too new`.
 */
export const APPEND = `
local epoch, shift = unpack(redis.call('HMGET', KEYS[2], 'epoch', 'shift'))
if epoch ~= ARGV[1] then return '${LOST}' end
if ARGV[2] ~= '' and redis.call('GET', KEYS[3]) ~= ARGV[2] then return '${NOT_PROBER}' end
local time = redis.call('TIME')
if tonumber(ARGV[3]) > time[1] * 1000 + time[2] / 1000 + shift + ${AHEAD_MS} then return '${TOO_NEW}' end
local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ${MAX_ENTRIES}, '*', unpack(ARGV, 4))
redis.call('PEXPIRE', KEYS[1], ${EXPIRE_MS})
redis.call('PEXPIRE', KEYS[2], ${EXPIRE_MS})
return id
`

/**
 * Returns the state from which a joining replica starts. KEYS: log, state, prober.
 * ARGV: the state and the epoch with which the replica would start a new log; the common time as the replica knows it, or 0;
 * for how many ms a state without a prober and without entries is still trusted.
 *
 * The common time is that of Redis plus a shift, which grows when the clock of Redis goes back.
 * Returns the epoch, the id of the last entry in the state, the state, the common time in ms, and '1' if no replica has
 * probed for longer than the state is trusted.
 */
export const JOIN = `
-- Otherwise a user without write access to the log would alternately join and fail. Redis 6 has no way to check.
if redis.acl_check_cmd and not redis.acl_check_cmd('XADD', KEYS[1], '*', 'v', '1') then
  return redis.error_reply("NOPERM this user has no permissions to run the 'xadd' command")
end
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local epoch, id, shared, seeded, shift =
  unpack(redis.call('HMGET', KEYS[2], 'epoch', 'id', 'shared', 'seeded', 'shift'))
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local lastId = last and last[1] or '0-0'
local function parts(text)
  local ms, sequence = string.match(text, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(sequence)
end
local function after(one, other)
  local ms, sequence = parts(one)
  local otherMs, otherSequence = parts(other)
  return ms > otherMs or (ms == otherMs and sequence > otherSequence)
end
local isKnown = epoch and id and shared and seeded and shift
-- Entries between the state and the log are missing: they were evicted, or the log was deleted.
if isKnown and id ~= '0-0' and lastId ~= id and first and after(first[1], id) then isKnown = false end
shift = tonumber(shift or '0')
if tonumber(ARGV[3]) > now + shift + ${INEXACT_MS} then shift = tonumber(ARGV[3]) - now end
if not isKnown then
  epoch, id, shared, seeded = ARGV[2], lastId, ARGV[1], string.format('%.0f', now)
  redis.call('HSET', KEYS[2], 'epoch', epoch, 'id', id, 'shared', shared, 'seeded', seeded)
end
local used = math.max(tonumber(seeded), last and parts(lastId) or 0)
local isLeft = redis.call('EXISTS', KEYS[3]) == 0 and now - used > tonumber(ARGV[4])
-- Written each time, so that a replica without write access fails to join.
redis.call('HSET', KEYS[2], 'shift', string.format('%.3f', shift))
redis.call('PEXPIRE', KEYS[2], ${EXPIRE_MS})
return {epoch, id, shared, string.format('%.3f', now + shift), isLeft and '1' or '0'}
`

/**
 * Stores the state up to an entry, so that a joining replica does not have to read earlier entries.
 * KEYS: state, prober. ARGV: the epoch, the token of the prober's lease, the id, the state.
 * Returns 1, or 0 without the lease.
 */
export const STORE = `
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] or redis.call('GET', KEYS[2]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'id', ARGV[3], 'shared', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ${EXPIRE_MS})
return 1
`

/**
 * Takes or renews the prober's lease. KEYS: prober. ARGV: the token, the length in ms.
 * Returns 1 if this token has the lease.
 */
export const LEASE = `
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
`

/**
 * Records the report of a replica, and returns its share of the slots.
 *
 * KEYS: members (hash: origin to 'until since share inFlight held unmet description'), state. ARGV: the epoch; the origin; the
 * number of its requests in flight; '1' if it lacked a slot since its last report; the limit for all replicas (-1: no
 * limit); the duration of the lease in ms; the description (JSON); the share that it uses until it knows the new one.
 *
 * Each replica has its fair share, and may use slots that the others do not need: while one lacks slots, those that do not
 * keep only what they use. If there are fewer slots than replicas that lack them, a slot is passed from one to the next.
 * The previous share still counts until the next report, because the replica may have used it meanwhile.
 * Returns `lost`, or the share, the number of replicas, the time of Redis in ms, its shift to the common time, and the
 * members, each origin followed by its report.
 */
export const REPORT = `
local epoch, shift = unpack(redis.call('HMGET', KEYS[2], 'epoch', 'shift'))
if epoch ~= ARGV[1] then return '${LOST}' end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local flight, unmet, limit, held = tonumber(ARGV[3]), ARGV[4] == '1', tonumber(ARGV[5]), tonumber(ARGV[8] or '0')
local all = redis.call('HGETALL', KEYS[1])
local used, count, othersUnmet, earlier, since, listed = 0, 1, false, 0, now, {}
for i = 1, #all, 2 do
  local ends, began, share, itsFlight, itsHeld, itsUnmet, text =
    string.match(all[i + 1], '^(%d+) (%d+) (%d+) (%d+) (%d+) ([01]) (.*)$')
  if not ends or tonumber(ends) + ${LISTED_MS} < now then
    redis.call('HDEL', KEYS[1], all[i])
  elseif all[i] == ARGV[2] then
    earlier, since = tonumber(share), tonumber(began)
  else
    if tonumber(ends) >= now then
      used = used + math.max(tonumber(share), tonumber(itsFlight), tonumber(itsHeld))
      count = count + 1
      othersUnmet = othersUnmet or itsUnmet == '1'
    end
    listed[#listed + 1] = all[i]
    listed[#listed + 1] = all[i + 1]
  end
end
local share = 0
if limit >= 0 then
  local fair = math.floor(limit / count)
  local want
  if unmet and not othersUnmet then want = limit
  elseif othersUnmet and fair == 0 then want = unmet and earlier == 0 and 1 or 0
  elseif unmet then want = fair
  elseif othersUnmet then want = flight
  else want = math.max(fair, flight + 1) end
  share = math.max(0, math.min(want, limit - used))
end
local own = table.concat({now + ARGV[6], since, share, flight, held, unmet and 1 or 0, ARGV[7]}, ' ')
redis.call('HSET', KEYS[1], ARGV[2], own)
redis.call('PEXPIRE', KEYS[1], ${EXPIRE_MS})
redis.call('PEXPIRE', KEYS[2], ${EXPIRE_MS})
listed[#listed + 1] = ARGV[2]
listed[#listed + 1] = own
return {share, count, string.format('%.0f', now), shift, listed}
`

/** Releases the prober's lease. KEYS: prober. ARGV: the token. */
export const RELEASE = `
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
`
