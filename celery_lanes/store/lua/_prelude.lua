-- Shared by all scripts. The loader has bound the keys and the first arguments to local names, as
-- each script's "KEYS:" and "ARGV:" lines say; "rest" is the index of the first argument after them.
-- Numbers go to redis.call as numbers: it writes all 17 digits, ".." only 14.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- A script whose first write is a deletion may go on at maxmemory, even if there is nothing to delete.
local function delete_first()
  redis.call('HDEL', meta, '')
end

local FACTS = {
  'max_concurrent', 'override', 'paused', 'lease_ttl', 'max_leases', 'dedupe_ttl',
  'seq', 'served', 'serving', 'weights', 'tick', 'frozen', 'rate_full', 'tokens_full',
  'rate', 'tokens',
}
local WRITTEN = { 'seq', 'served', 'serving', 'weights', 'tick', 'frozen', 'rate_full', 'tokens_full' }
local DEFAULTS = {
  lease_ttl = 30000, max_leases = 5, dedupe_ttl = 120000,
  seq = 0, served = 0, serving = 0, weights = 0, frozen = 0, rate_full = 0, tokens_full = 0,
}

local lane, loaded = {}, {}

-- Reads the lane's facts in one go; rate and tokens stay text ("interval burst").
local function load_lane()
  local values = redis.call('HMGET', meta, unpack(FACTS))
  for i, name in ipairs(FACTS) do
    local value = values[i] or nil
    if name ~= 'rate' and name ~= 'tokens' then value = tonumber(value) or DEFAULTS[name] end
    lane[name], loaded[name] = value, value
  end
  lane.cap = lane.override or lane.max_concurrent
end

-- Writes back the facts that have changed.
local function save_lane()
  local changed = {}
  for _, name in ipairs(WRITTEN) do
    if lane[name] ~= loaded[name] then
      changed[#changed + 1] = name
      changed[#changed + 1] = lane[name]
    end
  end
  if #changed > 0 then redis.call('HSET', meta, unpack(changed)) end
end

local function record_of(id)
  local packed = redis.call('HGET', calls, 'r:' .. id)
  return packed and cmsgpack.unpack(packed) or nil
end

local function keep(r)
  redis.call('HSET', calls, 'r:' .. r.id, cmsgpack.pack(r))
end

-- Slots that a grant could take; 1 while no cap is known.
local function free_slots()
  if lane.paused then return 0 end
  if not lane.cap then return 1 end
  return math.max(0, lane.cap - redis.call('ZCARD', leases))
end

-- Wakes idle workers, those first that have waited longest. One that does not hear is gone; in a
-- cluster the count of listeners is only this node's, so there "tries" is 1.
local function wake(count)
  for _ = 1, math.min(count, 10) do
    for _ = 1, tries do
      local worker = redis.call('ZPOPMIN', idle)[1]
      if not worker then return end
      if redis.call('PUBLISH', channel .. worker, lane_name) > 0 then break end
    end
  end
end

-- Workers to wake when slots have come free by decree.
local function takers()
  return math.min(free_slots(), redis.call('ZCARD', queue))
end

-- The lease clock: it stands still while no verb could reach the store.
local function tick()
  local gap = lane.tick and now - lane.tick or 0
  lane.tick = now
  if gap >= 0 and gap <= 2 * lane.lease_ttl / 3 then return 0 end
  lane.frozen = lane.frozen + gap
  return gap
end
