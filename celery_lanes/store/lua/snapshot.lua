-- Reads a lane. One consistent reading.
--
-- KEYS: queue ring refill times leases closing workers dead meta
-- RETURNS: {cap or -1, paused, running, waiting, delayed, closing, dead, callers waiting,
--   oldest wait in ms, done in the last minute, workers}
-- COST: O(log n)

load_lane()

local fields = {}
for second = 0, 59 do fields[#fields + 1] = 'done:' .. second end
local minute = math.floor(now / 1000) - 59
local done = lane.second and lane.second >= minute and lane.done or 0
for _, entry in ipairs(redis.call('HMGET', meta, unpack(fields))) do
  local at, count = string.match(entry or '', '^(%d+) (%d+)$')
  if at and tonumber(at) >= minute then done = done + count end
end

local since = redis.call('ZREVRANGEBYSCORE', times, '(0', '-inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
return {
  cap or -1,
  is_paused and 1 or 0,
  redis.call('ZCARD', leases),
  redis.call('ZCARD', queue),
  redis.call('ZCOUNT', times, '(0', '+inf'),
  redis.call('ZCARD', closing),
  redis.call('ZCARD', dead),
  redis.call('ZCARD', ring) + redis.call('ZCARD', refill),
  since and math.max(0, now + since) or 0,
  done,
  redis.call('ZCOUNT', workers, now - rules.lease_ttl, '+inf'),
}
