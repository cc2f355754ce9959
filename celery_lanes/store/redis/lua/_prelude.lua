-- Shared by all scripts. The loader has declared the keys and arguments, as each script's "KEYS:" and
-- "ARGV:" lines say; "rest" is the index of the first argument after them. It calls begin() before a
-- verb: as a function of the server, this file is read once, and its variables outlive a call.
-- Numbers go to redis.call as numbers: it writes all 17 digits, ".." only 14.

local now, weights_known, pauses_known, clocks

local function begin()
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
  weights_known, pauses_known = {}, {}
end

-- A script whose first write is a deletion may go on at maxmemory, even if there is nothing to delete.
local function delete_first()
  redis.call('HDEL', meta, '')
end

-- What the verbs change of a lane (its clocks and counters), and what configure.lua has written.
-- Each is one field, packed: a call has to be quick, and msgpack keeps every bit of a number.
local lane, rules, ceiling, cap, is_paused, loaded

local MAX_PROVIDER_WAIT = 600000

-- The cap in force: an adaptive lane may have learned a lower one than was set or configured.
local function note_cap()
  cap = ceiling and lane.learned and math.min(ceiling, lane.learned) or ceiling
end

-- Gives back what else of "meta" was asked for.
local function load_lane(...)
  local found = redis.call('HMGET', meta, 'lane', 'rules', 'override', 'paused', ...)
  loaded = found[1]
  lane = loaded and cmsgpack.unpack(loaded)
    or { seq = 0, served = 0, serving = 0, weights = 0, frozen = 0, rate_full = 0, tokens_full = 0 }
  clocks = lane.levels and {} or nil
  rules = found[2] and cmsgpack.unpack(found[2])
    or { lease_ttl = 30000, max_leases = 5, dedupe_ttl = 120000 }
  ceiling, is_paused = tonumber(found[3]) or rules.max_concurrent, found[4]
  note_cap()
  return found[5]
end

-- Writes what has changed, and whatever else of "meta" is given.
local function save_lane(...)
  local packed = cmsgpack.pack(lane)
  if packed ~= loaded or select('#', ...) > 0 then redis.call('HSET', meta, 'lane', packed, ...) end
  if not lane.levels then return end
  for rank, clock in pairs(clocks) do redis.call('HSET', marks, 'c' .. rank, cmsgpack.pack(clock)) end
end

-- A call's record, nil if there is none. Fields it has always: id task_id task account caller
-- priority cost seq since state; waited, if it came from another lane; if a broker brought it: redelivery arrival; from its first grant on:
-- attempts early charge weight share granted; while leased: worker token, established if it has let its slot go; after a loss: losses last;
-- when closing: reason. If it may make room: preemptible, preemptions; while it runs turn, victim, marked.
local function record_of(id)
  local packed = redis.call('HGET', calls, 'r:' .. id)
  return packed and cmsgpack.unpack(packed) or nil
end

local function keep(r)
  redis.call('HSET', calls, 'r:' .. r.id, cmsgpack.pack(r))
end

-- For how many ms the provider wants no calls; a clock that jumped back ends it.
local function provider_wait()
  local left = (lane.wait or 0) - now
  return left > 0 and left <= MAX_PROVIDER_WAIT and left or 0
end

-- Whether the lane is paused, by somebody or by its provider.
local function starts_nothing()
  return is_paused or lane.wait and provider_wait() > 0
end

-- Slots that a grant could take; 1 while no cap is known.
local function free_slots()
  if starts_nothing() then return 0 end
  if not cap then return 1 end
  return math.max(0, cap - redis.call('ZCARD', leases))
end

-- A worker may be about to ask for calls: tickets must not pass them.
local function note_coming()
  redis.call('HSET', meta, 'coming', now)
end

-- Wakes idle workers, those first that have waited longest. One that does not hear is gone; in a
-- cluster the count of listeners is only this node's, so there "tries" is 1.
local function wake(count)
  for _ = 1, math.min(count, 10) do
    for _ = 1, tries do
      local worker = redis.call('ZPOPMIN', idle)[1]
      if not worker then return end
      if redis.call('PUBLISH', channel .. worker, lane_name) > 0 then
        if lane.tickets then note_coming() end
        break
      end
    end
  end
end

-- Workers to wake when slots have come free by decree.
local function takers()
  return math.min(free_slots(), redis.call('ZCARD', queue))
end

-- The lease clock: it stands still while no verb could reach the store. If the server's clock goes back,
-- what was spent of the lane's buckets stays spent, and no more; promote looks after the accounts.
local function tick()
  local gap = lane.tick and now - lane.tick or 0
  lane.tick = now
  if gap >= 0 and gap <= 2 * rules.lease_ttl / 3 then return 0 end
  lane.frozen = lane.frozen + gap
  if gap < 0 then
    lane.rate_full, lane.tokens_full = lane.rate_full + gap, lane.tokens_full + gap
    lane.went_back = true
  end
  return gap
end
