-- The health of LLM targets, as memory/health.py says it. An entry is packed, by the name of a target or
-- of a provider; the fields it always has: failures cooldown fades; of one that was benched: benched till;
-- while a call tries it: prober tried; after a report: said. Times and spans are ms.

-- A library of functions has no "math" while it is loaded.
local NEVER, MEMORY, DROP_AT_ONCE = -1 / 0, 86400000, 10

local function drop_entry(name)
  redis.call('HDEL', benches, name)
  redis.call('ZREM', fading, name)
end

-- Drops what has faded, or one entry, but not the named one, if there are more than "most".
local function forget_entries(name, most)
  local gone = redis.call('ZRANGEBYSCORE', fading, '-inf', now, 'LIMIT', 0, DROP_AT_ONCE)
  if #gone == 0 and redis.call('ZCARD', fading) > most then
    local first = redis.call('ZRANGE', fading, 0, 1)
    gone = { first[1] == name and first[2] or first[1] }
  end
  for _, faded in ipairs(gone) do drop_entry(faded) end
end

-- All keys go with the entry that fades last. The first write is a deletion: it is let through at maxmemory.
local function keep_entry(name, entry, most)
  entry.fades = math.max(now, entry.till or NEVER) + MEMORY
  redis.call('HDEL', benches, name)
  redis.call('HSET', benches, name, cmsgpack.pack(entry))
  redis.call('ZADD', fading, entry.fades, name)
  forget_entries(name, most)
  local last = redis.call('ZREVRANGE', fading, 0, 0, 'WITHSCORES')
  local left = math.ceil(last[2] - now)
  redis.call('PEXPIRE', benches, left)
  redis.call('PEXPIRE', fading, left)
end

-- A bench from the future begins now: the clock was set back, and it would last too long.
local function set_back(name, entry, most)
  local ahead = entry.benched - now
  entry.benched, entry.till = now, entry.till - ahead
  if entry.tried then entry.tried = entry.tried - ahead end
  keep_entry(name, entry, most)
end

-- The entries of a provider and its target that have not faded; nil where there is none.
local function known_entries(provider, target, most)
  local packed = redis.call('HMGET', benches, provider, target)
  local found = {}
  for i, name in ipairs({ provider, target }) do
    local entry = packed[i] and cmsgpack.unpack(packed[i])
    if entry and entry.fades > now and not (i == 2 and provider == target) then
      found[i] = entry
      if entry.benched and entry.benched > now then set_back(name, entry, most) end
    end
  end
  return found
end

-- For how long the target is benched.
local function benched_for(found)
  local left = 0
  for i = 1, 2 do
    if found[i] then left = math.max(left, (found[i].till or NEVER) - now) end
  end
  return left
end
