-- What a turn gives: closing calls to write, running calls to start; as in turn.py and grants.py.

-- TOLD_BYTES: of messages, in one answer, but for one that is larger: a client waits for a second.
local ASIDE_AT_ONCE, PASSED_OVER, COMING_MS, TOLD_BYTES = 100, 50, 100, 4194304

-- A grant is told in one string, for a client parses many small answers slowly: attempt, wait_ms,
-- when it was granted and the lengths of call, token, caller and envelope in one line; then these four.
local function told_grant(r, envelope)
  local wait = math.max(0, r.granted - r.since)
  local head = string.format('%d %d %.0f %d %d %d %d\n', r.attempts, wait, r.granted, #r.id, #r.token, #r.caller, #envelope)
  return head .. r.id .. r.token .. r.caller .. envelope
end

-- Of a call that moves, what its next lane must know of it, too.
local function told_closing(r, envelope)
  if r.reason ~= 'moved' then return { r.id, r.token, r.reason, envelope } end
  local preemptible, cost = r.preemptible and 1 or 0, string.format('%.17g', r.cost)
  return { r.id, r.token, r.reason, envelope, r.task_id, r.task, r.caller, r.priority, preemptible, cost }
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

-- Hands out what nobody holds: of the calls that have just been moved all, and so many others; says also
-- whether there was no room in the answer for one of these.
local function hand_out(worker, token, count, moved)
  local ids, out, bytes = {}, {}, 0
  local function hand(id, envelope)
    local r = record_of(id)
    lease(r, worker, token)
    ids[#ids + 1], bytes = id, bytes + #envelope
    out[#out + 1] = told_closing(r, envelope)
  end
  for _, id in ipairs(moved) do
    if redis.call('ZSCORE', closing, id) == '0' then hand(id, redis.call('HGET', calls, 'e:' .. id)) end
  end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', closing, 0, 0, 'LIMIT', 0, count)) do
    local envelope = redis.call('HGET', calls, 'e:' .. id)
    if #ids > 0 and bytes + #envelope > TOLD_BYTES then return ids, out, true end
    hand(id, envelope)
  end
  return ids, out, false
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
  if lane.went_back then -- by this clock whoever was set aside would wait for too long: look at all anew
    lane.went_back = nil
    for _, aside in ipairs(redis.call('ZRANGEBYSCORE', refill, '-inf', '(+inf')) do come_back(aside) end
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

local function hand_over(r)
  count_ticket(-1)
  start_call(r, r.holder, ticket_token(r))
  tell_holder(r)
end

-- Reads an account's first call: account, place, the place after it, record, envelope.
local function first_of(name, rank)
  local account = string.sub(name, 18)
  local place, after = unpack(first_places(account, rank, 2))
  local id = call_at(place, account)
  local record, envelope = unpack(redis.call('HMGET', calls, 'r:' .. id, 'e:' .. id))
  return account, place, after, cmsgpack.unpack(record), envelope
end

-- Whether tickets pass over calls that no worker is there to run: none is idle, and none has been woken,
-- or has asked, just now. The calls keep their tags, and so their turn. A promised slot is none to take so.
local function are_passed_over()
  if lane.promised or redis.call('ZCARD', idle) > 0 then return false end
  return math.abs(now - tonumber(redis.call('HGET', meta, 'coming') or 0)) >= COMING_MS
end

-- Finds the first ticket behind such calls.
local function ticket_behind()
  if not are_passed_over() then return nil end
  local found = redis.call('ZRANGE', ring, 0, PASSED_OVER - 1, 'WITHSCORES')
  for i = 1, #found, 2 do
    local name, start, rank = found[i], found[i + 1], nil
    if lane.levels then name, start, rank = string.sub(name, 9), tag_in(name), tonumber(start) end
    local account = string.sub(name, 18)
    if record_of(call_at(head(account, rank), account)).holder then return name, start, rank end
  end
end

-- Grants up to so many calls to a worker, and to its holder each ticket before them, or after them
-- with nobody before it for whom a worker is there; gives the calls, what is told of them, how many
-- slots are left, and until when the lane's bucket lets nothing pass: now, if it is enough for one answer.
local function grant(worker, token, wanted, free)
  local ids, out, bytes, tries = {}, {}, 0, wanted + ASIDE_AT_ONCE
  while free > 0 and (#out < wanted or lane.tickets) do
    local name, start, rank = next_account()
    if not name then break end
    local account, place, after, r, envelope = first_of(name, rank)
    local is_passing = not r.holder and #out == wanted -- nobody asks for it
    if is_passing and wanted > 0 then break end -- or soon: who has all it wanted may ask for more
    if is_passing then
      name, start, rank = ticket_behind()
      if not name then break end
      account, place, after, r, envelope = first_of(name, rank)
    end
    tries = tries - 1
    if tries < 0 then return ids, out, free, now end
    local own = redis.call('HMGET', meta, 'rate:' .. account, 'full:' .. account, 'early:' .. r.task)
    local own_full = math.min(tonumber(own[2] or 0), full_at_last(own[1]))
    local own_at, lane_at = ready_at(own[1], own_full, 1), lane_ready_at(r.cost)
    if r.holder and is_gone(r.holder) then
      stop_waiting(r)
      forget(r)
    elseif own_at > now then
      if own_full < tonumber(own[2]) then redis.call('HSET', meta, 'full:' .. account, own_full) end
      set_aside(account, rank, name, start, own_at)
    elseif lane_at > now then
      return ids, out, free, lane_at
    elseif #ids > 0 and bytes + #envelope > TOLD_BYTES then
      return ids, out, free, now
    else
      if own[1] then redis.call('HSET', meta, 'full:' .. account, spent(own[1], own_full, 1)) end
      r.early = own[3] == '1'
      take(r, name, tonumber(start), place, after, is_passing)
      free = free - 1
      if r.holder then
        hand_over(r)
      else
        start_call(r, worker, token)
        ids[#ids + 1], bytes = r.id, bytes + #envelope
        out[#out + 1] = told_grant(r, envelope)
      end
    end
  end
  return ids, out, free, nil
end

-- Grants the tickets whose turn it is, where no worker asks; gives until when the lane's bucket lets
-- nothing pass. Every verb that may free a slot, or bring a ticket to the head, ends with it.
local function serve_tickets()
  if not lane.tickets or not rules.max_concurrent then return nil end
  tick()
  local _, _, _, blocked_until = grant(nil, nil, 0, free_slots())
  return blocked_until
end

-- Says in how many ms something is due without anybody's doing; -1 = nothing.
local function due_in_ms(due, blocked_until, room_at)
  local full = rules.has_accounts and redis.call('ZRANGE', refill, 0, 0, 'WITHSCORES')[2]
  local waited = lane.wait and provider_wait() > 0 and lane.wait or math.huge
  local soonest = math.min(due, tonumber(full or math.huge), blocked_until or math.huge, room_at or math.huge, waited)
  return soonest == math.huge and -1 or math.max(1, ms_until(soonest))
end
