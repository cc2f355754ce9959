-- Weighted fair queueing, step by step as in fairness.py, where it is explained.
-- A waiting call's place in "queue" is account:priority:seq:call, its account's in "ring" seq:account.

local function weight_of(account)
  if not rules.has_accounts then return 1 end
  if not weights_known[account] then
    weights_known[account] = tonumber(redis.call('HGET', meta, 'weight:' .. account) or 1)
  end
  return weights_known[account]
end

local function place_of(r)
  return r.account .. string.format(':%04d:%016d:', 1000 - r.priority, r.seq) .. r.id
end

-- The places of an account's first calls, as many as wanted.
local function first_places(account, count)
  return redis.call('ZRANGEBYLEX', queue, '[' .. account .. ':', '(' .. account .. ';', 'LIMIT', 0, count)
end

local function head(account)
  return first_places(account, 1)[1]
end

local function call_at(place, account)
  return string.sub(place, #account + 24)
end

local function ring_name(account, place)
  return string.sub(place, #account + 7, #account + 22) .. ':' .. account
end

local function virtual_now()
  return lane.served + lane.serving
end

local function enter(account, place)
  local finish = redis.call('ZSCORE', tags, account)
  if finish then redis.call('ZREM', tags, account) end
  redis.call('ZADD', ring, math.max(virtual_now(), tonumber(finish or 0)), ring_name(account, place))
  lane.weights = lane.weights + weight_of(account)
end

local function leave(account, name, finish)
  redis.call('ZREM', ring, name)
  redis.call('ZADD', tags, finish, account)
  local is_empty = redis.call('ZCARD', ring) == 0
  lane.weights = is_empty and 0 or lane.weights - weight_of(account)
end

-- Lets the ring know an account by another first call.
local function rename(account, old, new)
  local name = ring_name(account, old)
  local start = redis.call('ZSCORE', ring, name)
  if start then
    redis.call('ZREM', ring, name)
    redis.call('ZADD', ring, start, ring_name(account, new))
  end
end

local function put(r)
  local place, first = place_of(r), head(r.account)
  redis.call('ZADD', queue, 0, place)
  if not first then
    enter(r.account, place)
  elseif place < first then
    rename(r.account, first, place)
  end
end

-- Takes a call out that will not be granted.
local function remove(r)
  local place = place_of(r)
  local was_first = head(r.account) == place
  redis.call('ZREM', queue, place)
  if not was_first then return end
  local after = head(r.account)
  if after then return rename(r.account, place, after) end
  local name = ring_name(r.account, place)
  local start = redis.call('ZSCORE', ring, name)
  if start then leave(r.account, name, start) else redis.call('ZREM', refill, r.account) end
end

-- Grants the first call of an account, whose start tag is "start" and whose second call is at
-- "after", if it has one; notes the charge in the record.
local function take(r, name, start, place, after)
  r.charge, r.weight, r.share = r.cost, weight_of(r.account), lane.weights
  if start > virtual_now() then lane.served = lane.served + (start - virtual_now()) end
  lane.serving = lane.serving + r.charge / r.share
  redis.call('ZREM', queue, place)
  local finish = start + r.charge / r.weight
  if not after then return leave(r.account, name, finish) end
  redis.call('ZREM', ring, name)
  redis.call('ZADD', ring, finish, ring_name(r.account, after))
end

local function shift(account, difference)
  local first = head(account)
  local name = first and ring_name(account, first)
  local start = name and redis.call('ZSCORE', ring, name)
  if start then return redis.call('ZADD', ring, start + difference, name) end
  local finish = redis.call('ZSCORE', tags, account)
  if finish then
    redis.call('ZADD', tags, finish + difference, account)
  elseif difference > 0 then
    redis.call('ZADD', tags, virtual_now() + difference, account)
  end
end

-- Charges a running call's real cost instead of what it was charged; the last word wins.
local function correct(r, cost)
  local difference = cost - r.charge
  if difference == 0 then return end
  lane.serving = lane.serving + difference / r.share
  shift(r.account, difference / r.weight)
  r.charge = cost
  local interval = rules.tokens and tonumber(string.match(rules.tokens, '^%S+'))
  if interval and lane.tokens_full > 0 then
    lane.tokens_full = lane.tokens_full + difference * interval
  end
end

local function finish_charge(r)
  lane.serving = lane.serving - r.charge / r.share
  lane.served = lane.served + r.charge / r.share
end

-- Starts afresh when the lane is empty; lets go of rounding errors when nothing runs.
local function settle_down()
  if redis.call('ZCARD', leases) > 0 then return end
  lane.serving = 0
  if redis.call('ZCARD', queue) == 0 then
    lane.served, lane.weights = 0, 0
    redis.call('UNLINK', tags)
  end
end
