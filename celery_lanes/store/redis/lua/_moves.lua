-- The moves of a call, as in ledger.py. A move keeps the record that it was given.

-- Neither writes the record.
local function begin_to_wait(r)
  r.state = 'waiting'
  if r.holder then count_ticket(1) end
  put(r)
end

local function begin_delay(r, due)
  r.state, r.since = 'delayed', due
  redis.call('ZADD', delayed, due, r.id)
end

local function park(r)
  begin_to_wait(r)
  keep(r)
end

local function delay(r, due)
  begin_delay(r, due)
  keep(r)
end

local function lease(r, worker, token)
  r.worker, r.token, r.granted = worker, token, now
  local held = r.state == 'closing' and closing or leases
  redis.call('ZADD', held, now - lane.frozen + rules.lease_ttl, r.id)
  keep(r)
end

-- A call that has been told to make room has made it: its slot is for the highest level.
local function unmark(r)
  for i, found in ipairs(lane.marks) do
    if found[1] == r.id then table.remove(lane.marks, i) end
  end
  if #lane.marks == 0 then lane.marks = nil end
  lane.promised, r.marked = (lane.promised or 0) + 1, nil
end

local function victim_name(r)
  return string.format('%016d:', r.granted) .. r.id
end

-- Of calls that run without a slot; nil if there are none.
local function count_established(difference)
  local count = (lane.established or 0) + difference
  lane.established = count > 0 and count or nil
end

local function unlease(r)
  redis.call('ZREM', leases, r.id)
  if r.established then
    redis.call('ZREM', closing, r.id)
    count_established(-1)
  end
  if r.victim then redis.call('ZREM', victims, victim_name(r)) end
  if r.marked then unmark(r) end
  r.worker, r.token, r.victim, r.established = nil, nil, nil, nil
end

-- Lets another worker have a closing call.
local function let_go(r)
  unlease(r)
  redis.call('ZADD', closing, 0, r.id)
  keep(r)
end

-- Deletes a call's record and envelope, and its task id's way to it.
local function forget(r)
  local field = 't:' .. r.task_id
  local packed = redis.call('HGET', calls, field) -- none, if 500 younger calls have come and gone
  local ids = packed and cmsgpack.unpack(packed) or {}
  for i = #ids, 1, -1 do
    if ids[i] == r.id then table.remove(ids, i) end
  end
  if #ids == 0 then return redis.call('HDEL', calls, 'r:' .. r.id, 'e:' .. r.id, field) end
  redis.call('HDEL', calls, 'r:' .. r.id, 'e:' .. r.id)
  redis.call('HSET', calls, field, cmsgpack.pack(ids))
end

-- A ticket has no result: its holder is told.
local function to_closing(r, reason)
  r.state, r.reason = 'closing', reason
  if r.holder then
    forget(r)
    return tell_holder(r)
  end
  redis.call('ZADD', closing, 0, r.id)
  keep(r)
end

local function stop_waiting(r)
  remove(r)
  if r.holder then count_ticket(-1) end
end

local function close_waiting(r, reason)
  if r.state == 'waiting' then stop_waiting(r) else redis.call('ZREM', delayed, r.id) end
  to_closing(r, reason)
end

local function settle(r)
  forget(r)
  local known_until = now + math.max(rules.dedupe_ttl, r.redelivery or 0)
  redis.call('ZADD', settled, known_until, r.id)
  if r.arrival then redis.call('ZADD', settled, known_until, r.arrival) end
end

-- A ticket is not granted twice: its holder gives it back because nobody wants it any more.
local function put_back(r)
  correct(r, 0)
  if r.holder then return forget(r) end
  r.since = now
  park(r)
end

-- Counts a loss; true if it was the last one that this call may have.
local function is_dead(r, last)
  r.losses = (r.losses or 0) + 1
  r.last = last
  if r.losses < rules.max_leases then return false end
  finish_charge(r)
  to_closing(r, 'dead')
  return true
end

-- Deals with a call whose body died; true if it waits again.
local function lose(r)
  if r.early or r.holder then
    finish_charge(r)
    to_closing(r, 'lost')
    return false
  end
  if is_dead(r, 'lost') then return false end
  put_back(r)
  return true
end

local function trim_settled(limit)
  local old = redis.call('ZRANGEBYSCORE', settled, '-inf', now, 'LIMIT', 0, limit)
  if #old > 0 then redis.call('ZREM', settled, unpack(old)) end
end
