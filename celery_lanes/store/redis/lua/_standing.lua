-- Where a call stands, or would if it were admitted now; as in survey.py and standing.py.

-- Places: of each caller, as many as are read at once.
local CALLERS_LOOKED_AT, PLACES_READ, RUNNING_LOOKED_AT = 250, 4, 100

local function stem_of(account, rank)
  return rank and account .. string.format(':%04d', rank) or account
end

-- Reads a clock, and makes none.
local function now_at(rank)
  local is_new = rank and not clocks[rank] and redis.call('HEXISTS', marks, 'c' .. rank) == 0
  return is_new and 0 or virtual_now(clock_of(rank))
end

local function begins_at(account, rank, first)
  local start = first and start_of(account, rank, ring_name(account, first))
  return tonumber(start) or math.max(now_at(rank), tonumber(finish_of(account, rank) or 0))
end

local function cost_at(place, account)
  return place and record_of(call_at(place, account)).cost or 0
end

-- The number of the call that a name in the ring is of.
local function number_in(name)
  return tonumber(string.sub(name, 1, 16)) or tonumber(string.sub(name, 2, 16)) - 1e15
end

local count_standing, before

do -- whose names nobody else needs: a script has room for 200
  -- How many wait where an account stands; of few calls all places are known.
  local function waiting_at(stand)
    if #stand.places < PLACES_READ then return #stand.places end
    return redis.call('ZLEXCOUNT', queue, '[' .. stand.places[1], '(' .. stem_of(stand.account, stand.rank) .. ';')
  end

  -- Gives the number of the call after so many where an account stands.
  local function number_after(count, stand)
    local place = stand.places[count + 1]
    if not place then
      local at = redis.call('ZRANK', queue, stand.places[1]) + count
      place = redis.call('ZRANGE', queue, at, at)[1]
    end
    return number_in(ring_name(stand.account, place))
  end

  -- Counts the calls where an account stands that start before a tag, or with it and have a smaller
  -- number, all of them without a tag; gives also their cost.
  local function count_before(stand, tag, number)
    if not tag then
      local waiting = waiting_at(stand)
      return waiting, waiting * stand.cost
    end
    local step, waiting = stand.cost / weight_of(stand.account), #stand.places
    local count = math.max(0, math.ceil((tag - stand.start) / step))
    if count >= waiting then waiting = waiting_at(stand) end
    count = math.min(waiting, count)
    local is_tie = count < waiting and stand.start + count * step == tag
    if is_tie and number_after(count, stand) < number then count = count + 1 end
    return count, count * stand.cost
  end

  -- Reads who stands in the ring: account, start tag, number of its first call, rank.
  local function standpoint(name, score)
    if not lane.levels then return string.sub(name, 18), score, number_in(name) end
    return string.sub(name, 26), tag_in(name), number_in(string.sub(name, 9)), score
  end

  -- Lists who but the account is in the ring, up to a tag at a rank, in the order of service.
  local function near(account, rank, tag)
    local found, out = redis.call('ZRANGEBYSCORE', ring, '-inf', rank or tag, 'WITHSCORES', 'LIMIT', 0,
      CALLERS_LOOKED_AT + 1), {}
    for i = 1, #found, 2 do
      local name, start, _, at = standpoint(found[i], tonumber(found[i + 1]))
      local is_near = at ~= rank or name ~= account and start <= tag
      if is_near and #out < CALLERS_LOOKED_AT then out[#out + 1] = { account = name, start = start, rank = at } end
    end
    return out
  end

  -- Adds what must be known of each to count its calls; of all with few commands, for there may be many.
  local function look_at(stands)
    local firsts, accounts = {}, {}
    for i, stand in ipairs(stands) do
      stand.places = first_places(stand.account, stand.rank, PLACES_READ)
      firsts[i] = 'r:' .. call_at(stand.places[1], stand.account)
      accounts[i] = stand.account
    end
    if #stands == 0 then return end
    for i, packed in ipairs(redis.call('HMGET', calls, unpack(firsts))) do
      stands[i].cost = cmsgpack.unpack(packed).cost
    end
    learn_all(accounts)
  end

  -- Counts who stands in the ring before a tag at a rank; of equals, those with a smaller number.
  function count_standing(rank, tag, own)
    local low, high = 0, redis.call('ZCARD', ring)
    while low < high do
      local middle = math.floor((low + high) / 2)
      local name, score = unpack(redis.call('ZRANGE', ring, middle, middle, 'WITHSCORES'))
      local _, start, number, at = standpoint(name, tonumber(score))
      local is_before = start < tag or start == tag and number < own
      if at ~= rank then is_before = at < rank end
      if is_before then low = middle + 1 else high = middle end
    end
    return low
  end

  -- Where an account stands in the ring, from 0.
  local function index_of(account, rank)
    local first = head(account, rank)
    local name = first and ring_name(account, first)
    local start = name and start_of(account, rank, name)
    return start and redis.call('ZRANK', ring, rank and bytes_of(start) .. name or name)
  end

  -- Counts the accounts that go before a call and are not looked at: at least one call of each.
  local function beyond_of(r, rank, tag)
    local number = number_in(ring_name(r.account, place_of(r)))
    local index, own = count_standing(rank, tag, number), index_of(r.account, rank)
    local others = own and own < index and index - 1 or index
    return math.max(0, others - CALLERS_LOOKED_AT)
  end

  function before(r, rank, tag)
    local own, others, cost, stands = 0, 0, 0, near(r.account, rank, tag)
    local number = number_in(ring_name(r.account, place_of(r)))
    look_at(stands)
    for _, stand in ipairs(stands) do
      local more, more_cost = count_before(stand, stand.rank == rank and tag or nil, number)
      cost = cost + more_cost
      if stand.account == r.account then own = own + more else others = others + more end
    end
    return own, others, cost, #stands == CALLERS_LOOKED_AT and beyond_of(r, rank, tag) or 0
  end
end

-- Counts what goes before a call: its own account's, others'; gives what they cost, and how many
-- accounts were not looked at. Of higher levels all counts, of lower ones nothing.
local function ahead_of(r)
  local rank = rank_of(r)
  local first = head(r.account, rank)
  local own = redis.call('ZLEXCOUNT', queue, '[' .. stem_of(r.account, rank) .. ':', '(' .. place_of(r))
  local own_cost = own * cost_at(first, r.account)
  local tag = begins_at(r.account, rank, first) + own_cost / weight_of(r.account)
  local higher, others, cost, beyond = before(r, rank, tag)
  return own + higher, others + beyond, cost + own_cost, beyond
end

local function passes_in(bucket, full_at, after, amount)
  if not bucket then return 0 end
  return math.max(0, ms_until(ready_at(bucket, spent(bucket, full_at, after), amount)))
end

-- Says in how many ms the buckets let a call pass after those ahead: its caller's, the lane's two.
local function buckets_pass_in(r, own, ahead, cost)
  local rate, full = unpack(redis.call('HMGET', meta, 'rate:' .. r.account, 'full:' .. r.account))
  return passes_in(rate, tonumber(full or 0), own, 1),
    passes_in(rules.rate, lane.rate_full, ahead, 1),
    passes_in(rules.tokens, lane.tokens_full, cost, r.cost)
end

local function running_ms()
  local ran = redis.call('ZRANGE', leases, 0, RUNNING_LOOKED_AT - 1)
  for i, id in ipairs(ran) do ran[i] = math.max(0, now - record_of(id).granted) end
  return ran
end

-- The service times of the lane's last calls, the shortest first.
local function served_ms()
  local packed = lane.times or ''
  local served = { struct.unpack('>' .. string.rep('I4', #packed / 4), packed) }
  served[#served] = nil -- where unpack ended
  table.sort(served)
  return served
end

-- Says when the slot is free that a call with so many ahead gets: those take the mean time, and what
-- runs the median; nil if nobody can tell.
local function turn_in(ahead)
  local running, served = redis.call('ZCARD', leases), served_ms()
  if ahead < (cap or 0) - running then return provider_wait() end
  if not cap or cap < 1 or #served == 0 then return nil end
  local service, longest = served[math.floor((#served - 1) / 2) + 1], served[#served]
  local total, number = 0, ahead % cap + running - cap
  for _, ms in ipairs(served) do total = total + ms end
  local waves = math.floor(math.floor(ahead / cap) * (total / #served))
  if number < 0 then return waves + provider_wait() end
  local left = running_ms()
  for i, ran in ipairs(left) do
    left[i] = ran <= service and service - ran or math.max(0, longest - ran)
  end
  table.sort(left)
  return waves + math.max(left[math.floor(number * #left / running) + 1], provider_wait())
end

-- Says how many calls would go before one that is admitted now, and how many ms it would wait.
local function wait_of(r)
  local own, others, cost = ahead_of(r)
  local turn = not is_paused and not is_account_paused(r.account) and turn_in(own + others)
  if not turn then return own + others end
  return own + others, math.max(turn, buckets_pass_in(r, own, own + others, cost))
end

-- Gives the facts of a call that is here, else false: {state, {own and others' calls ahead, running,
-- workers, ms until it is due, until its caller's rate, the lane's rate and the lane's tokens let it
-- pass, until its provider wants calls, 1 if others' are at least so many, 1 in a fifo lane, 1 if
-- paused, 1 if its caller is, cap or -1}, ms that running calls have run, last service times in 4
-- bytes each}
local function standing_of(id)
  local r = record_of(id)
  if not r then return false end
  local own, others, cost, beyond = 0, 0, 0, 0
  if r.state == 'waiting' or r.state == 'delayed' then
    own, others, cost, beyond = ahead_of(r)
  end
  local by_caller, by_rate, by_tokens = buckets_pass_in(r, own, own + others, cost)
  return {
    r.state,
    {
      own,
      others,
      redis.call('ZCARD', leases),
      redis.call('ZCOUNT', workers, now - rules.lease_ttl, '+inf'),
      r.state == 'delayed' and math.max(0, r.since - now) or 0,
      by_caller,
      by_rate,
      by_tokens,
      provider_wait(),
      beyond > 0 and 1 or 0,
      r.account == '*' and 1 or 0,
      is_paused and 1 or 0,
      is_account_paused(r.account) and 1 or 0,
      cap or -1,
    },
    running_ms(),
    lane.times or '',
  }
end
