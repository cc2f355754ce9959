-- Where accounts stand: in "ring" by start tag while they wait, else in "tags" by finish tag; and whose
-- turn it is, as in levels.py. A rank is 1000 - priority. A waiting call's place in "queue" is
-- account:rank:seq:call, its account's name in "ring" seq:account.
--
-- A lane of one level: ranks are nil here, and the lane's record is its clock. A lane of levels: "ring"
-- and "tags" are by rank, and each member begins with 8 bytes that sort as the tags do; "marks" has the
-- tag of an account at a rank (s: start, f: finish) and the clock of a rank (c).

local TURN_EVERY, FORGET_AT_ONCE = 20, 4

local function rank_of(r)
  return lane.levels and 1000 - r.priority or nil
end

-- No tag is negative.
local function bytes_of(tag)
  return struct.pack('>d', tag)
end

local function tag_in(bytes)
  return (struct.unpack('>d', bytes))
end

local function ranked(rank, account)
  return string.format('%04d', rank) .. account
end

-- The places of an account's first calls, as many as wanted.
local function first_places(account, rank, count)
  local stem = rank and account .. string.format(':%04d', rank) or account
  return redis.call('ZRANGEBYLEX', queue, '[' .. stem .. ':', '(' .. stem .. ';', 'LIMIT', 0, count)
end

local function head(account, rank)
  return first_places(account, rank, 1)[1]
end

local function ring_name(account, place)
  return string.sub(place, #account + 7, #account + 22) .. ':' .. account
end

-- Gives nothing of an account that is set aside.
local function start_of(account, rank, name)
  if not rank then return redis.call('ZSCORE', ring, name) end
  local bytes = redis.call('HGET', marks, 's' .. ranked(rank, account))
  return bytes and tag_in(bytes)
end

local function join(account, rank, name, start)
  if not rank then return redis.call('ZADD', ring, start, name) end
  redis.call('ZADD', ring, rank, bytes_of(start) .. name)
  redis.call('HSET', marks, 's' .. ranked(rank, account), bytes_of(start))
end

local function quit(account, rank, name, start)
  if not rank then return redis.call('ZREM', ring, name) end
  redis.call('ZREM', ring, bytes_of(start) .. name)
  redis.call('HDEL', marks, 's' .. ranked(rank, account))
end

local function finish_of(account, rank)
  if not rank then return redis.call('ZSCORE', tags, account) end
  local bytes = redis.call('HGET', marks, 'f' .. ranked(rank, account))
  return bytes and tag_in(bytes)
end

local function tag(account, rank, finish)
  if not rank then return redis.call('ZADD', tags, finish, account) end
  redis.call('ZADD', tags, rank, bytes_of(finish) .. ranked(rank, account))
  redis.call('HSET', marks, 'f' .. ranked(rank, account), bytes_of(finish))
end

local function untag(account, rank, finish)
  if not rank then return redis.call('ZREM', tags, account) end
  redis.call('ZREM', tags, bytes_of(finish) .. ranked(rank, account))
  redis.call('HDEL', marks, 'f' .. ranked(rank, account))
end

local function is_empty(rank)
  if not rank then return redis.call('ZCARD', ring) == 0 end
  return redis.call('ZCOUNT', ring, rank, rank) == 0
end

-- Served and serving time, and the weights of those in the ring.
local function clock_of(rank)
  if not rank then return lane end
  if not clocks[rank] then
    local packed = redis.call('HGET', marks, 'c' .. rank)
    clocks[rank] = packed and cmsgpack.unpack(packed) or { served = 0, serving = 0, weights = 0 }
  end
  local clock = clocks[rank]
  if clock.rests ~= lane.rests then clock.serving, clock.rests = 0, lane.rests end
  return clock
end

-- Forgets tags that say nothing any more: of one level whenever one may be added, of the lane in
-- next.lua.
local function forget_passed(rank)
  local served = clock_of(rank).served
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', tags, rank, rank, 'LIMIT', 0, FORGET_AT_ONCE)) do
    local finish = tag_in(member)
    if finish > served then return end
    untag(string.sub(member, 13), rank, finish)
  end
end

local function at_end(index)
  local member, rank = unpack(redis.call('ZRANGE', ring, index, index, 'WITHSCORES'))
  return member, tonumber(rank)
end

local function first_below(rank)
  local found = redis.call('ZRANGEBYSCORE', ring, '(' .. rank, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  return found[1], tonumber(found[2])
end

-- Gives the name, start tag and rank of the account to serve next.
local function next_account()
  if not lane.levels then return unpack(redis.call('ZRANGE', ring, 0, 0, 'WITHSCORES')) end
  local member, top = at_end(0)
  local rank = top
  if not member then return nil end
  if lane.passed >= TURN_EVERY - 1 and not lane.promised and first_below(top) then
    member, rank = first_below(math.max(top, lane.turn))
    if not member then member, rank = first_below(top) end
  end
  return string.sub(member, 9), tag_in(member), rank
end

-- Notes a grant at a rank, before its account moves on; says whether it is a lower level's turn.
local function note_turn(rank)
  if lane.promised then
    lane.promised = lane.promised > 1 and lane.promised - 1 or nil
    return false
  end
  local _, top = at_end(0)
  local _, lowest = at_end(-1)
  if rank > top then
    lane.passed, lane.turn = 0, rank
    return true
  end
  lane.passed = rank < lowest and lane.passed + 1 or 0
  return false
end
