-- Reads what holds for the callers that the rules name or that something was set of. One consistent
-- reading.
--
-- FLAGS: no-writes
-- KEYS: queue ring tags marks refill meta
-- USES: ring fair buckets steering
-- RETURNS: of each: {account, weight, bucket or '', weight, bucket and pause as set at run time or '',
--   calls waiting}
-- COST: O(callers x log n)

load_lane()
local given, steered, out = given_settings(), steered_settings(), {}

local function tell(account)
  local own = steered.callers[account] or {}
  local weight, bucket = unpack(redis.call('HMGET', meta, 'weight:' .. account, 'rate:' .. account))
  local waiting = redis.call('ZLEXCOUNT', queue, '[' .. account .. ':', '(' .. account .. ';')
  out[#out + 1] = { account, weight or '1', bucket or '', own.weight or '', own.rate or '', own.paused or '', waiting }
end

for _, account in ipairs(given.names) do tell(account) end
for account in pairs(steered.callers) do
  if not given.callers[account] then tell(account) end
end
return out
