-- The moves of a call, as in ledger.py. A move keeps the record that it was given.

local function park(r)
  r.state = 'waiting'
  put(r)
  redis.call('ZADD', times, -r.since, r.id)
  keep(r)
end

local function delay(r, due)
  r.state, r.since = 'delayed', due
  redis.call('ZADD', times, due, r.id)
  keep(r)
end

local function lease(r, worker, token)
  r.worker, r.token, r.granted = worker, token, now
  local held = r.state == 'closing' and closing or leases
  redis.call('ZADD', held, now - lane.frozen + rules.lease_ttl, r.id)
  keep(r)
end

local function unlease(r)
  redis.call('ZREM', leases, r.id)
  r.worker, r.token = nil, nil
end

-- Lets another worker have a closing call.
local function let_go(r)
  unlease(r)
  redis.call('ZADD', closing, 0, r.id)
  keep(r)
end

local function to_closing(r, reason)
  r.state, r.reason = 'closing', reason
  redis.call('ZADD', closing, 0, r.id)
  keep(r)
end

local function close_waiting(r, reason)
  if r.state == 'waiting' then remove(r) end
  redis.call('ZREM', times, r.id)
  to_closing(r, reason)
end

local function settle(r)
  redis.call('HDEL', calls, 'r:' .. r.id, 'e:' .. r.id)
  redis.call('ZREM', index, r.task_id .. ':' .. r.id)
  redis.call('ZADD', settled, now + math.max(rules.dedupe_ttl, r.redelivery or 0), r.id)
end

local function put_back(r)
  correct(r, 0)
  r.since = now
  park(r)
end

-- Counts a loss; true if it was the last one that this call may have.
local function is_dead(r)
  r.losses = (r.losses or 0) + 1
  if r.losses < rules.max_leases then return false end
  finish_charge(r)
  to_closing(r, 'dead')
  return true
end

-- Deals with a call whose body died; true if it waits again.
local function lose(r)
  if r.early then
    finish_charge(r)
    to_closing(r, 'lost')
    return false
  end
  if is_dead(r) then return false end
  put_back(r)
  return true
end

local function trim_settled(limit)
  local old = redis.call('ZRANGEBYSCORE', settled, '-inf', now, 'LIMIT', 0, limit)
  if #old > 0 then redis.call('ZREM', settled, unpack(old)) end
end
