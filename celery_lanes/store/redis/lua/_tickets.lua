-- Tickets: calls that no worker runs, for a process keeps their slot itself; as in tickets.py. A
-- ticket's record names its "holder", an incarnation with an ear, as workers have. "holders" has when
-- each was heard of, "news:<holder>" in meta which of its tickets have been granted or are gone, until
-- it says that it knows. "lane.tickets" counts those that wait: nil if there are none, so that a lane
-- without tickets pays nothing.

local function hear_of(holder)
  redis.call('ZADD', holders, now - lane.frozen, holder)
end

-- A dead holder's tickets must not keep slots, each for a whole lease.
local function is_gone(holder)
  local heard = redis.call('ZSCORE', holders, holder)
  return not heard or now - lane.frozen - heard > rules.lease_ttl
end

local function count_ticket(difference)
  local count = (lane.tickets or 0) + difference
  lane.tickets = count > 0 and count or nil
end

local function news_of(holder)
  local packed = redis.call('HGET', meta, 'news:' .. holder)
  return packed and cmsgpack.unpack(packed) or {}
end

local function keep_news(holder, news)
  if #news == 0 then return redis.call('HDEL', meta, 'news:' .. holder) end
  redis.call('HSET', meta, 'news:' .. holder, cmsgpack.pack(news))
end

-- One that has been forgotten would never say that it knows.
local function tell_holder(r)
  if not redis.call('ZSCORE', holders, r.holder) then return end
  local news = {}
  for _, id in ipairs(news_of(r.holder)) do
    if id ~= r.id then news[#news + 1] = id end
  end
  news[#news + 1] = r.id
  keep_news(r.holder, news)
  redis.call('PUBLISH', channel .. r.holder, lane_name)
end

-- Names the lease of a holder's ticket; '' if it has none.
local function token_of(id, holder)
  local r = record_of(id)
  return r and r.holder == holder and r.state == 'running' and r.token or ''
end

-- Forgets what a holder knows as it is: a slot that it knows it has may be lost by now.
local function forget_news(holder, known)
  local news = {}
  for _, id in ipairs(news_of(holder)) do
    if known[id] ~= token_of(id, holder) then news[#news + 1] = id end
  end
  keep_news(holder, news)
end

local function extend_slot(id)
  redis.call('ZADD', leases, now - lane.frozen + rules.lease_ttl, id)
end

-- A ticket is leased once at most, so what it was admitted and granted by names its lease.
local function ticket_token(r)
  return string.format('%.0f-%.0f', r.seq, now)
end
