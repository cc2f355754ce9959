-- Reads a lane. One consistent reading.
--
-- FLAGS: no-writes
-- KEYS: calls queue ring refill delayed leases closing workers dead meta
-- USES: ring
-- RETURNS: {cap as set or -1, paused, running, waiting, delayed, closing, dead, callers waiting,
--   oldest wait in ms, done and moved in the last minute, workers, running without a slot, cap in force
--   or -1, ms that the provider wants no calls, the lane's own buckets or '', what the provider said
--   last of its limits or '', ms ago}
-- COST: O(callers waiting x log n), at most 1,000 of them

local LOOKED_AT, QUOTA_KEPT = 250, 60000

local told, quota = string.match(load_lane('quota') or '', '^(%d+) (.+)$')
local age = told and now - told or 0
if age < 0 or age > QUOTA_KEPT then quota, age = nil, 0 end

local fields = {}
for slot = 0, 59 do fields[#fields + 1] = 'done:' .. slot end
local second = math.floor(now / 1000)
local function is_recent(at) -- and not of a clock that has gone back since
  return at and at > second - 60 and at <= second
end
local done, moved = 0, 0
if is_recent(lane.second) then done, moved = lane.done, lane.moved or 0 end
for _, entry in ipairs(redis.call('HMGET', meta, unpack(fields))) do
  local at, ended, left = string.match(entry or '', '^(%d+) (%d+) (%d+)$')
  if is_recent(tonumber(at)) then done, moved = done + ended, moved + left end
end

-- The oldest first call of those callers who are next, at all levels and at the lowest, and of those
-- who are last.
local oldest = now
local function look_at(account, rank)
  local place = head(account, rank)
  oldest = math.min(oldest, record_of(string.sub(place, #account + 24)).since)
end
local function look_at_ring(found)
  for i = 1, #found, 2 do
    look_at(string.sub(found[i], lane.levels and 26 or 18), lane.levels and tonumber(found[i + 1]))
  end
end
look_at_ring(redis.call('ZRANGE', ring, 0, LOOKED_AT - 1, 'WITHSCORES'))
look_at_ring(redis.call('ZREVRANGE', ring, 0, LOOKED_AT - 1, 'WITHSCORES'))
if lane.levels then
  local _, lowest = at_end(-1)
  look_at_ring(lowest and redis.call('ZRANGEBYSCORE', ring, lowest, lowest, 'WITHSCORES', 'LIMIT', 0, LOOKED_AT) or {})
end
for _, aside in ipairs(redis.call('ZRANGE', refill, 0, LOOKED_AT - 1)) do
  look_at(string.sub(aside, lane.levels and 5 or 1), lane.levels and tonumber(string.sub(aside, 1, 4)))
end

return {
  ceiling or -1,
  is_paused and 1 or 0,
  redis.call('ZCARD', leases),
  redis.call('ZCARD', queue),
  redis.call('ZCARD', delayed),
  redis.call('ZCARD', closing) - (lane.established or 0),
  redis.call('ZCARD', dead),
  redis.call('ZCARD', ring) + redis.call('ZCARD', refill),
  now - oldest,
  done,
  moved,
  redis.call('ZCOUNT', workers, now - rules.lease_ttl, '+inf'),
  lane.established or 0,
  cap or -1,
  provider_wait(),
  rules.rate or '',
  rules.tokens or '',
  quota or '',
  age,
}
