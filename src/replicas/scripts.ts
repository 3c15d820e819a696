/**
 * What has to be done as one in Redis. Times are those of Redis: no replica's clock decides about another's lease.
 * `redis.call('TIME')` in a script that writes needs Redis 5 or later, or Valkey.
 */

/** How many entries the log keeps, about; a joining replica needs those since the last stored state. */
const MAX_ENTRIES = 10_000

/** How long keys stay that nobody renews: a week. */
const EXPIRE_MS = 604_800_000

/**
 * Appends an entry to the log.
 * KEYS: log, state, prober. ARGV: the token of the prober's lease, or '' when none is needed; the fields of the entry.
 * Returns the id, or nil when the lease is another's.
 */
export const APPEND = `
if ARGV[1] ~= '' and redis.call('GET', KEYS[3]) ~= ARGV[1] then return false end
local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ${MAX_ENTRIES}, '*', unpack(ARGV, 2))
redis.call('PEXPIRE', KEYS[1], ${EXPIRE_MS})
redis.call('PEXPIRE', KEYS[2], ${EXPIRE_MS})
return id
`

/**
 * Where a joining replica begins. KEYS: log, state. ARGV: the state that it would begin the log with.
 * Returns the id of the entry up to which the state goes, the state, and the time in microseconds.
 */
export const JOIN = `
local time = redis.call('TIME')
local stored = redis.call('HMGET', KEYS[2], 'id', 'shared')
if not stored[1] or not stored[2] then
  local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
  local id = last[1] and last[1][1] or '0-0'
  redis.call('HSET', KEYS[2], 'id', id, 'shared', ARGV[1])
  redis.call('PEXPIRE', KEYS[2], ${EXPIRE_MS})
  stored = {id, ARGV[1]}
end
return {stored[1], stored[2], time[1], time[2]}
`

/**
 * Stores the state up to an entry, so that those who join need not read what came before.
 * KEYS: state, prober. ARGV: the token of the prober's lease, the id, the state. Returns 1, or 0 without the lease.
 */
export const STORE = `
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'id', ARGV[2], 'shared', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ${EXPIRE_MS})
return 1
`

/**
 * Takes or renews the prober's lease. KEYS: prober. ARGV: the token, the length in ms.
 * Returns 1 when it is held by this token.
 */
export const LEASE = `
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
`

/** Gives a lease back. KEYS: prober. ARGV: the token. */
export const RELEASE = `
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
`

/**
 * Reports a replica, and takes its share of the places in flight.
 * KEYS: members (hash: origin to 'until share inFlight description'). ARGV: origin, inFlight, wanted, limit, lease in ms,
 * description (JSON). Returns the share, how many replicas there are, and all of them.
 */
export const REPORT = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local all = redis.call('HGETALL', KEYS[1])
local used, count, listed = 0, 1, {}
for i = 1, #all, 2 do
  local ends, share, flight, text = string.match(all[i + 1], '^(%d+) (%d+) (%d+) (.*)$')
  if not ends or tonumber(ends) + 60000 < now then
    redis.call('HDEL', KEYS[1], all[i])
  elseif all[i] ~= ARGV[1] then
    if tonumber(ends) >= now then
      used = used + math.max(tonumber(share), tonumber(flight))
      count = count + 1
    end
    listed[#listed + 1] = all[i]
    listed[#listed + 1] = all[i + 1]
  end
end
local limit = tonumber(ARGV[4])
local share = math.max(0, math.min(tonumber(ARGV[3]), limit - used))
redis.call('HSET', KEYS[1], ARGV[1], (now + ARGV[5]) .. ' ' .. share .. ' ' .. ARGV[2] .. ' ' .. ARGV[6])
redis.call('PEXPIRE', KEYS[1], ${EXPIRE_MS})
return {share, count, now, listed}
`
