-- Reads where the youngest call of a task id stands: what goes before it in fair order, and what may
-- hold it up; as in survey.py. One consistent reading.
--
-- FLAGS: no-writes
-- KEYS: calls queue ring tags leases workers meta
-- ARGV: task_id
-- USES: fair buckets
-- RETURNS: {state, {own and others' calls ahead, running, workers, ms until it is due, until its
--   caller's rate, the lane's rate and the lane's tokens let it pass, 1 if others' are at least so
--   many, 1 in a fifo lane, 1 if paused, cap or -1}, ms that running calls have run, last service
--   times in 4 bytes each}; nil if there is no such call
-- COST: O(accounts that go before it x log n), at most 250 of them, and 100 running calls

local LOOKED_AT, RUNNING_LOOKED_AT = 250, 100

load_lane()
local ids = redis.call('HGET', calls, 't:' .. task_id)
ids = ids and cmsgpack.unpack(ids) or {}
local r = ids[#ids] and record_of(ids[#ids])
if not r then return false end

local function start_of(account, first)
  local start = first and redis.call('ZSCORE', ring, ring_name(account, first))
  return tonumber(start) or math.max(virtual_now(), tonumber(redis.call('ZSCORE', tags, account) or 0))
end

local function cost_at(place, account)
  return place and record_of(call_at(place, account)).cost or 0
end

local function seq_of_number(count, first, account)
  local at = redis.call('ZRANK', queue, first) + count
  return tonumber(string.sub(ring_name(account, redis.call('ZRANGE', queue, at, at)[1]), 1, 16))
end

-- Counts an account's calls that start before a tag, or with it and came first; gives also their cost.
local function count_before(account, start, tag)
  local first = head(account)
  local cost = cost_at(first, account)
  local step = cost / weight_of(account)
  local waiting = redis.call('ZLEXCOUNT', queue, '[' .. first, '(' .. account .. ';')
  local count = math.min(waiting, math.max(0, math.ceil((tag - start) / step)))
  local is_tie = count < waiting and start + count * step == tag
  if is_tie and seq_of_number(count, first, account) < r.seq then count = count + 1 end
  return count, count * cost
end

-- Of the accounts beyond those looked at, all start before the tag: at least one call of each.
local function others_before(tag)
  local near = redis.call('ZRANGEBYSCORE', ring, '-inf', tag, 'WITHSCORES', 'LIMIT', 0, LOOKED_AT)
  local others, cost, unseen = 0, 0, 1
  for i = 1, #near, 2 do
    local account = string.sub(near[i], 18)
    if account == r.account then
      unseen = 0
    else
      local more, more_cost = count_before(account, tonumber(near[i + 1]), tag)
      others, cost = others + more, cost + more_cost
    end
  end
  local below = redis.call('ZCOUNT', ring, '-inf', '(' .. string.format('%.17g', tag))
  return others, cost, math.max(0, below - LOOKED_AT - unseen)
end

local own, others, cost, beyond = 0, 0, 0, 0
if r.state == 'waiting' or r.state == 'delayed' then
  local first = head(r.account)
  own = redis.call('ZLEXCOUNT', queue, '[' .. r.account .. ':', '(' .. place_of(r))
  local own_cost = own * cost_at(first, r.account)
  others, cost, beyond = others_before(start_of(r.account, first) + own_cost / weight_of(r.account))
  others, cost = others + beyond, cost + own_cost
end

local function passes_in(bucket, full_at, after, amount)
  if not bucket then return 0 end
  return math.max(0, math.ceil(ready_at(bucket, spent(bucket, full_at, after), amount) - now))
end

local rate, full = unpack(redis.call('HMGET', meta, 'rate:' .. r.account, 'full:' .. r.account))
local running_ms = redis.call('ZRANGE', leases, 0, RUNNING_LOOKED_AT - 1)
for i, id in ipairs(running_ms) do running_ms[i] = math.max(0, now - record_of(id).granted) end

return {
  r.state,
  {
    own,
    others,
    redis.call('ZCARD', leases),
    redis.call('ZCOUNT', workers, now - rules.lease_ttl, '+inf'),
    r.state == 'delayed' and math.max(0, r.since - now) or 0,
    passes_in(rate, tonumber(full or 0), own, 1),
    passes_in(rules.rate, lane.rate_full, own + others, 1),
    passes_in(rules.tokens, lane.tokens_full, cost, r.cost),
    beyond > 0 and 1 or 0,
    r.account == '*' and 1 or 0,
    is_paused and 1 or 0,
    cap or -1,
  },
  running_ms,
  lane.times or '',
}
