-- Reads which LLM targets and providers have failed of late, what is remembered longest first. One
-- consistent reading.
--
-- FLAGS: no-writes
-- KEYS: benches fading
-- ARGV: limit
-- RETURNS: of each {name, failures, last cooldown in ms as text, ms until its bench is over as text, 1 if
--   that is over and a call tries it}
-- COST: O(log n + limit)

local read = {}
local names = redis.call('ZREVRANGEBYSCORE', fading, '+inf', '(' .. string.format('%.17g', now), 'LIMIT', 0, limit)
for i, name in ipairs(names) do
  local entry = cmsgpack.unpack(redis.call('HGET', benches, name))
  local left = math.max(0, (entry.till or now) - now)
  read[i] = {
    name,
    entry.failures,
    string.format('%.17g', entry.cooldown),
    string.format('%.17g', left),
    left == 0 and (entry.tried or now) > now and 1 or 0,
  }
end
return read
