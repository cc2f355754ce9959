-- Which running calls must make room, step by step as in preemption.py, where it is explained.
-- The lane's record holds the marks, {call, token, worker} each; nil if there are none.

local MARKS, LEVELS_LOOKED_AT, CALLERS_LOOKED_AT = 50, 20, 100

local function account_passing(account)
  if not rules.has_accounts then return math.huge end
  local rate, full = unpack(redis.call('HMGET', meta, 'rate:' .. account, 'full:' .. account))
  return passing(rate, tonumber(full or 0))
end

-- Whether more calls can start above a level than slots are free or coming free. If the cap was
-- lowered, a slot that comes free is nobody's.
local function is_room_wanted(rank)
  local coming = cap - redis.call('ZCARD', leases) + #(lane.marks or {})
  if coming < 0 or lane_passing() <= coming then return false end
  local count, limit = 0, CALLERS_LOOKED_AT
  if not rules.has_accounts then limit = math.min(limit, coming + 1) end
  local above = redis.call('ZRANGEBYSCORE', ring, '-inf', '(' .. rank, 'WITHSCORES', 'LIMIT', 0, limit)
  for i = 1, #above, 2 do
    local account = string.sub(above[i], 26)
    local can_pass = account_passing(account)
    if can_pass > 0 then
      local stem = account .. string.format(':%04d', above[i + 1])
      count = count + math.min(can_pass, redis.call('ZLEXCOUNT', queue, '[' .. stem .. ':', '(' .. stem .. ';'))
      if count > coming then return true end
    end
  end
  return false
end

-- The oldest of the lowest level that has run for long enough; else when one will have.
local function next_victim()
  local above, ripe_at = '-inf', nil
  for _ = 1, LEVELS_LOOKED_AT do
    local member, priority = unpack(redis.call('ZRANGEBYSCORE', victims, above, '+inf', 'WITHSCORES', 'LIMIT', 0, 1))
    if not member or not is_room_wanted(1000 - priority) then break end
    local at = tonumber(string.sub(member, 1, 16)) + rules.min_runtime
    if at <= now then return member end
    ripe_at, above = math.min(ripe_at or at, at), '(' .. priority
  end
  return nil, ripe_at
end

local function mark(member)
  local r = record_of(string.sub(member, 18))
  redis.call('ZREM', victims, member)
  r.victim, r.marked = nil, true
  keep(r)
  lane.marks = lane.marks or {}
  lane.marks[#lane.marks + 1] = { r.id, r.token, r.worker }
  redis.call('PUBLISH', channel .. r.worker, lane_name)
end

-- Marks what must make room now; gives when something else may have to, if that can be told.
local function preempt()
  if not rules.min_runtime or starts_nothing() or not lane.levels or redis.call('ZCARD', ring) == 0 then return nil end
  local lane_at = lane_ready_at(1)
  if lane_at > now then return lane_at end
  while #(lane.marks or {}) < MARKS do
    local member, ripe_at = next_victim()
    if not member then return ripe_at end
    mark(member)
  end
  return nil
end

-- What a worker must stop.
local function marked_of(worker)
  local out = {}
  for _, found in ipairs(lane.marks or {}) do
    if found[3] == worker then out[#out + 1] = { found[1], found[2] } end
  end
  return out
end
