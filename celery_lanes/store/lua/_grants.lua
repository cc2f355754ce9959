-- What a turn gives: closing calls to write, running calls to start; as in turn.py.

local ASIDE_AT_ONCE = 100

-- A bucket is kept as "interval burst": ms for one unit to refill, units at most.
local function ready_at(bucket, full_at, cost)
  if not bucket then return 0 end
  local interval, burst = string.match(bucket, '^(%S+) (%S+)$')
  return full_at - (burst - math.min(cost, burst)) * interval
end

local function spent(bucket, full_at, cost)
  if not bucket then return full_at end
  return math.max(full_at, now) + cost * string.match(bucket, '^%S+')
end

local function lane_ready_at(cost)
  return math.max(ready_at(rules.rate, lane.rate_full, 1), ready_at(rules.tokens, lane.tokens_full, cost))
end

local function hand_out(worker, tokens)
  local pairs_out = {}
  local unheld = #tokens > 0 and redis.call('ZRANGEBYSCORE', closing, 0, 0, 'LIMIT', 0, #tokens) or {}
  for i, id in ipairs(unheld) do
    lease(record_of(id), worker, tokens[i])
    pairs_out[i] = { id, tokens[i] }
  end
  return pairs_out
end

local function promote()
  local due = redis.call('ZRANGEBYSCORE', times, '(0', now, 'LIMIT', 0, 100)
  for _, id in ipairs(due) do park(record_of(id)) end
  if not rules.has_accounts then return end
  local full = redis.call('ZRANGEBYSCORE', refill, '-inf', now, 'LIMIT', 0, 100)
  for _, account in ipairs(full) do
    redis.call('ZREM', refill, account)
    enter(account, head(account))
  end
end

local function forget_tags()
  local past = redis.call('ZRANGEBYSCORE', tags, '-inf', lane.served, 'LIMIT', 0, 100)
  if #past > 0 then redis.call('ZREM', tags, unpack(past)) end
end

local function set_aside(account, name, start, at)
  leave(account, name, start)
  redis.call('ZADD', refill, at, account)
end

local function start_call(r, name, start, worker, token)
  take(r, name, start)
  lane.rate_full = spent(rules.rate, lane.rate_full, 1)
  lane.tokens_full = spent(rules.tokens, lane.tokens_full, r.cost)
  redis.call('ZREM', times, r.id)
  r.state, r.attempts = 'running', r.attempts + 1
  lease(r, worker, token)
end

-- Grants up to one call per token; says also until when the lane's bucket lets nothing pass.
local function grant(worker, tokens)
  local granted, attempts = {}, #tokens + ASIDE_AT_ONCE
  local free = free_slots()
  while #granted < #tokens and #granted < free do
    local name, start = unpack(redis.call('ZRANGE', ring, 0, 0, 'WITHSCORES'))
    if not name then break end
    attempts = attempts - 1
    if attempts < 0 then return granted, now end
    local account = string.sub(name, 18)
    local r = record_of(string.sub(head(account), #account + 24))
    local own = redis.call('HMGET', meta, 'rate:' .. account, 'full:' .. account, 'early:' .. r.task)
    local own_full = tonumber(own[2] or 0)
    local own_at, lane_at = ready_at(own[1], own_full, 1), lane_ready_at(r.cost)
    if own_at > now then
      set_aside(account, name, start, own_at)
    elseif lane_at > now then
      return granted, lane_at
    else
      if own[1] then redis.call('HSET', meta, 'full:' .. account, spent(own[1], own_full, 1)) end
      r.early = own[3] == '1'
      start_call(r, name, tonumber(start), worker, tokens[#granted + 1])
      granted[#granted + 1] = { r.id, r.token }
    end
  end
  return granted, nil
end
