-- What holds for callers and for a lane's own buckets: what was set at run time, else what the rules say;
-- as in live.py. "given" has the one, "steered" the other; what follows from both is in fields of its
-- own, which is all that is read when a call is granted. '-' = no bucket, whatever the rules say.

local function unpacked(field, otherwise)
  local packed = redis.call('HGET', meta, field)
  return packed and cmsgpack.unpack(packed) or otherwise
end

local function given_settings()
  return unpacked('given', { rate = '', tokens = '', names = {}, callers = {} })
end

local function steered_settings()
  return unpacked('steered', { callers = {} })
end

-- The first call of an account from a rank on: its rank, if there are any, and its place.
local function first_from(account, rank)
  local least = rank and string.format('[%s:%04d:', account, rank) or '[' .. account .. ':'
  local place = redis.call('ZRANGEBYLEX', queue, least, '(' .. account .. ';', 'LIMIT', 0, 1)[1]
  return place and lane.levels and tonumber(string.sub(place, #account + 2, #account + 5)), place
end

-- Calls a function for each level that an account waits at, with its rank, name and start tag there.
local function at_each_level(account, act)
  local rank, place = first_from(account)
  while place do
    rank = rank or nil
    local name = ring_name(account, place)
    act(rank, name, start_of(account, rank, name))
    if not rank then return end
    rank, place = first_from(account, rank + 1)
  end
end

local function reweigh(account, weight)
  at_each_level(account, function(rank, _, start)
    if not start then return end
    local clock = clock_of(rank)
    clock.weights = clock.weights + (weight - weight_of(account))
  end)
end

local function put_field(field, value)
  if value then redis.call('HSET', meta, field, value) else redis.call('HDEL', meta, field) end
end

-- The text of a bucket that holds, nil for none.
local function held(own, given)
  local bucket = own or given
  return bucket ~= '-' and bucket ~= '' and bucket or nil
end

local function put_rate(account, bucket)
  local old, full = unpack(redis.call('HMGET', meta, 'rate:' .. account, 'full:' .. account))
  put_field('rate:' .. account, bucket)
  put_field('full:' .. account, bucket and full and rescaled(tonumber(full), old, bucket))
end

-- Writes what holds for an account.
local function apply(account, given, steered)
  local own, usual = steered.callers[account] or {}, given.callers[account] or {}
  local weight = own.weight or usual.weight
  reweigh(account, tonumber(weight or 1))
  put_field('weight:' .. account, weight)
  put_rate(account, held(own.rate, usual.rate))
  put_field('paused:' .. account, own.paused)
  weights_known[account] = nil
end

-- Writes what holds for the lane's own buckets into its rules, in place of what held before.
local function hold_limits(before, given, steered)
  rules.rate, rules.tokens = held(steered.rate, given.rate), held(steered.tokens, given.tokens)
  lane.rate_full = rescaled(lane.rate_full, before.rate, rules.rate)
  lane.tokens_full = rescaled(lane.tokens_full, before.tokens, rules.tokens)
end

-- Says to every verb whether any account has something of its own.
local function note_accounts(given, steered)
  rules.has_accounts = next(given.callers) ~= nil or next(steered.callers) ~= nil
end
