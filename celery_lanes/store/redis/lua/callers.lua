-- Reads what holds for the callers that the rules name, that something was set of, or that wait. One
-- consistent reading.
--
-- FLAGS: no-writes
-- KEYS: queue ring tags marks refill meta
-- USES: ring fair buckets steering
-- RETURNS: of each: {account, weight, bucket or '', weight, bucket and pause as set at run time or '',
--   calls waiting}
-- COST: O(callers x log n); of those who only wait 750 at most: who is next, last, or set aside

local LOOKED_AT, EVERYBODY = 250, '*'

load_lane()
local given, steered, told, out = given_settings(), steered_settings(), {}, {}

local function tell(account)
  if told[account] or account == EVERYBODY then return end
  told[account] = true
  local own = steered.callers[account] or {}
  local weight, bucket = unpack(redis.call('HMGET', meta, 'weight:' .. account, 'rate:' .. account))
  local waiting = redis.call('ZLEXCOUNT', queue, '[' .. account .. ':', '(' .. account .. ';')
  out[#out + 1] = { account, weight or '1', bucket or '', own.weight or '', own.rate or '', own.paused or '', waiting }
end

for _, account in ipairs(given.names) do tell(account) end
for account in pairs(steered.callers) do tell(account) end
for _, verb in ipairs({ 'ZRANGE', 'ZREVRANGE' }) do
  for _, name in ipairs(redis.call(verb, ring, 0, LOOKED_AT - 1)) do
    tell(string.sub(name, lane.levels and 26 or 18))
  end
end
for _, aside in ipairs(redis.call('ZRANGE', refill, 0, LOOKED_AT - 1)) do
  tell(string.sub(aside, lane.levels and 5 or 1))
end
return out
