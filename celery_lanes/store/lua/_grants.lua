-- What a turn gives: closing calls to write, running calls to start; as in turn.py.

local ASIDE_AT_ONCE = 100

-- A grant is told in one string, for a client parses many small answers slowly: attempt, wait_ms and
-- the lengths of call, token, caller and envelope in one line; then these four.
local function told_grant(r, envelope)
  local wait = math.max(0, r.granted - r.since)
  return string.format('%d %d %d %d %d %d\n', r.attempts, wait, #r.id, #r.token, #r.caller, #envelope)
    .. r.id .. r.token .. r.caller .. envelope
end

local function told_closing(r, envelope)
  return { r.id, r.token, r.reason, envelope }
end

-- Tells again what a lost reply told, unless it is another's by now.
local function told_again(ids, state, held_by, told)
  local out = {}
  for _, id in ipairs(ids) do
    local r = record_of(id)
    if r and r.state == state and r.token == held_by then
      out[#out + 1] = told(r, redis.call('HGET', calls, 'e:' .. id))
    end
  end
  return out
end

local function hand_out(worker, token, count)
  local ids, out = redis.call('ZRANGEBYSCORE', closing, 0, 0, 'LIMIT', 0, count), {}
  for i, id in ipairs(ids) do
    local r = record_of(id)
    lease(r, worker, token)
    out[i] = told_closing(r, redis.call('HGET', calls, 'e:' .. id))
  end
  return ids, out
end

local function first_due()
  return tonumber(redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')[2] or math.huge)
end

-- Lets due calls wait and accounts with a refilled bucket return; says when the next call is due.
local function promote()
  local due = first_due()
  if due <= now then
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', delayed, '-inf', now, 'LIMIT', 0, 100)) do
      redis.call('ZREM', delayed, id)
      park(record_of(id))
    end
    due = first_due()
  end
  if not rules.has_accounts then return due end
  for _, aside in ipairs(redis.call('ZRANGEBYSCORE', refill, '-inf', now, 'LIMIT', 0, 100)) do
    come_back(aside)
  end
  return due
end

local function forget_tags(limit)
  if lane.levels then return end -- what adds one does it
  local past = redis.call('ZRANGEBYSCORE', tags, '-inf', lane.served, 'LIMIT', 0, limit)
  if #past > 0 then redis.call('ZREM', tags, unpack(past)) end
end

local function may_be_stopped(r)
  if not (rules.min_runtime and lane.levels and r.preemptible) then return false end
  return not r.turn and (r.preemptions or 0) < rules.max_preemptions
end

local function start_call(r, worker, token)
  lane.rate_full = spent(rules.rate, lane.rate_full, 1)
  lane.tokens_full = spent(rules.tokens, lane.tokens_full, r.cost)
  r.state, r.attempts, r.reported = 'running', (r.attempts or 0) + 1, nil
  r.victim = may_be_stopped(r) or nil
  lease(r, worker, token)
  if r.victim then redis.call('ZADD', victims, r.priority, victim_name(r)) end
end

-- Grants up to so many calls; gives them, what is told of them, and until when the lane's bucket
-- lets nothing pass.
local function grant(worker, token, count, tries)
  local ids, out = {}, {}
  while #out < count do
    local name, start, rank = next_account()
    if not name then break end
    tries = tries - 1
    if tries < 0 then return ids, out, now end
    local account = string.sub(name, 18)
    local place, after = unpack(first_places(account, rank, 2))
    local id = call_at(place, account)
    local record, envelope = unpack(redis.call('HMGET', calls, 'r:' .. id, 'e:' .. id))
    local r = cmsgpack.unpack(record)
    local own = redis.call('HMGET', meta, 'rate:' .. account, 'full:' .. account, 'early:' .. r.task)
    local own_full = tonumber(own[2] or 0)
    local own_at, lane_at = ready_at(own[1], own_full, 1), lane_ready_at(r.cost)
    if own_at > now then
      set_aside(account, rank, name, start, own_at)
    elseif lane_at > now then
      return ids, out, lane_at
    else
      if own[1] then redis.call('HSET', meta, 'full:' .. account, spent(own[1], own_full, 1)) end
      r.early = own[3] == '1'
      take(r, name, tonumber(start), place, after)
      start_call(r, worker, token)
      ids[#ids + 1] = id
      out[#out + 1] = told_grant(r, envelope)
    end
  end
  return ids, out, nil
end
