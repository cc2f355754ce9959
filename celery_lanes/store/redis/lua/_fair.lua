-- Weighted fair queueing, step by step as in fairness.py, where it is explained; ranks as in _ring.lua.

local function learn_all(accounts)
  if not rules.has_accounts then return end
  local fields = {}
  for i, account in ipairs(accounts) do
    fields[2 * i - 1], fields[2 * i] = 'weight:' .. account, 'paused:' .. account
  end
  local told = redis.call('HMGET', meta, unpack(fields))
  for i, account in ipairs(accounts) do
    weights_known[account], pauses_known[account] = tonumber(told[2 * i - 1] or 1), told[2 * i]
  end
end

local function weight_of(account)
  if not rules.has_accounts then return 1 end
  if not weights_known[account] then learn_all({ account }) end
  return weights_known[account]
end

local function is_account_paused(account)
  return rules.has_accounts and weight_of(account) and pauses_known[account]
end

-- What has waited in another lane goes before what has not: "!" sorts before every digit.
local function place_of(r)
  local form = r.waited and ':%04d:!%015d:' or ':%04d:%016d:'
  return r.account .. string.format(form, 1000 - r.priority, r.seq) .. r.id
end

local function call_at(place, account)
  return string.sub(place, #account + 24)
end

local function virtual_now(clock)
  return clock.served + clock.serving
end

-- An account that is set aside, as "refill" has it.
local function aside_name(account, rank)
  return rank and ranked(rank, account) or account
end

local function enter(account, rank, place)
  if is_account_paused(account) then
    return redis.call('ZADD', refill, '+inf', aside_name(account, rank))
  end
  local clock, finish = clock_of(rank), finish_of(account, rank)
  if finish then untag(account, rank, finish) end
  join(account, rank, ring_name(account, place), math.max(virtual_now(clock), tonumber(finish or 0)))
  clock.weights = clock.weights + weight_of(account)
end

local function leave(account, rank, name, start, finish)
  quit(account, rank, name, start)
  tag(account, rank, finish)
  local clock = clock_of(rank)
  clock.weights = is_empty(rank) and 0 or clock.weights - weight_of(account)
end

-- Lets the ring know an account by another first call.
local function rename(account, rank, old, new)
  local name = ring_name(account, old)
  local start = start_of(account, rank, name)
  if start then
    quit(account, rank, name, start)
    join(account, rank, ring_name(account, new), start)
  end
end

local function put(r)
  local rank = rank_of(r)
  local place, first = place_of(r), head(r.account, rank)
  redis.call('ZADD', queue, 0, place)
  if not first then
    enter(r.account, rank, place)
  elseif place < first then
    rename(r.account, rank, first, place)
  end
end

-- Takes a call out that will not be granted.
local function remove(r)
  local place, rank = place_of(r), rank_of(r)
  local was_first = head(r.account, rank) == place
  redis.call('ZREM', queue, place)
  if not was_first then return end
  local after = head(r.account, rank)
  if after then return rename(r.account, rank, place, after) end
  local name = ring_name(r.account, place)
  local start = start_of(r.account, rank, name)
  if start then
    leave(r.account, rank, name, start, start)
  else
    redis.call('ZREM', refill, aside_name(r.account, rank))
  end
  if rank then forget_passed(rank) end
end

local function set_aside(account, rank, name, start, at)
  leave(account, rank, name, start, start)
  redis.call('ZADD', refill, at, aside_name(account, rank))
end

local function come_back(aside)
  redis.call('ZREM', refill, aside)
  if not lane.levels then return enter(aside, nil, head(aside)) end
  local account, rank = string.sub(aside, 5), tonumber(string.sub(aside, 1, 4))
  enter(account, rank, head(account, rank))
end

-- Grants the first call of an account, whose start tag is "start" and whose second call is at
-- "after", if it has one; notes the charge in the record. One that passes others over is no turn.
local function take(r, name, start, place, after, is_passing)
  local rank, clock = rank_of(r), lane
  if rank then
    clock = clock_of(rank)
    r.turn = not is_passing and note_turn(rank) or nil
  end
  r.charge, r.weight, r.share = r.cost, weight_of(r.account), clock.weights
  if start > virtual_now(clock) then clock.served = clock.served + (start - virtual_now(clock)) end
  clock.serving = clock.serving + r.charge / r.share
  redis.call('ZREM', queue, place)
  local finish = math.max(start + r.charge / r.weight, start * (1 + 2 ^ -52)) -- see moved_on
  if after then
    quit(r.account, rank, name, start)
    join(r.account, rank, ring_name(r.account, after), finish)
  else
    leave(r.account, rank, name, start, finish)
  end
  if rank then forget_passed(rank) end
end

-- Moves an account's tag, wherever it stands; rounding must not take it below 0.
local function shift(account, rank, difference)
  local first = head(account, rank)
  local name = first and ring_name(account, first)
  local start = name and start_of(account, rank, name)
  if start then
    if rank then quit(account, rank, name, start) end
    return join(account, rank, name, math.max(0, start + difference))
  end
  local finish = finish_of(account, rank)
  if finish then
    if rank then untag(account, rank, finish) end
    tag(account, rank, math.max(0, finish + difference))
  elseif difference > 0 then
    tag(account, rank, virtual_now(clock_of(rank)) + difference)
  end
end

-- Charges a running call's real cost instead of what it was charged; the last word wins.
local function correct(r, cost)
  local difference = cost - r.charge
  if difference == 0 then return end
  local clock = clock_of(rank_of(r))
  clock.serving = clock.serving + difference / r.share
  shift(r.account, rank_of(r), difference / r.weight)
  r.charge = cost
  local interval = rules.tokens and tonumber(string.match(rules.tokens, '^%S+'))
  if interval and lane.tokens_full > 0 then
    lane.tokens_full = lane.tokens_full + difference * interval
  end
end

local function finish_charge(r)
  local clock = clock_of(rank_of(r))
  clock.serving = clock.serving - r.charge / r.share
  clock.served = clock.served + r.charge / r.share
end

-- Starts afresh when the lane is empty; lets go of rounding errors when nothing runs. Says whether
-- the lane is empty. Clocks of levels notice at their next use that nothing ran.
local function settle_down()
  if lane.established or redis.call('ZCARD', leases) > 0 then return false end
  lane.serving = 0
  if lane.levels then lane.rests = lane.rests + 1 end
  if redis.call('ZCARD', queue) > 0 then return false end
  lane.served, lane.weights = 0, 0
  redis.call('UNLINK', tags)
  if lane.levels then
    redis.call('UNLINK', marks)
    lane.passed, lane.turn, lane.promised, clocks = 0, 0, nil, {}
  end
  return true
end
