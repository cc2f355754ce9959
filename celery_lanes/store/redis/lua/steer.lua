-- Sets something of a caller at run time, with effect on what waits; it stays in force whatever the rules
-- say. Atomic.
--
-- FLAGS: allow-oom
-- KEYS: calls queue ring tags marks refill delayed leases victims closing idle holders meta
-- ARGV: channel tries lane_name account what value most
--   what: 'weight', 'rate' or 'paused'. value: '' = as configured, so nothing is kept of it; else a number,
--   a bucket as in _buckets.lua or '-' for none, '1'. most: so many callers may be steered.
-- USES: ring fair tickets moves buckets grants steering
-- RETURNS: 1, or 0 if too many are steered
-- COST: O(steered callers + levels x log n)

delete_first()
load_lane()

local function count(callers)
  local number = 0
  for _ in pairs(callers) do number = number + 1 end
  return number
end

local given, steered = given_settings(), steered_settings()
local own = steered.callers[account]
if not own and value ~= '' and count(steered.callers) >= tonumber(most) then return 0 end
own = own or {}
own[what] = value ~= '' and value or nil
steered.callers[account] = next(own) and own or nil
redis.call('HSET', meta, 'steered', cmsgpack.pack(steered))

apply(account, given, steered)
note_accounts(given, steered)
redis.call('HSET', meta, 'rules', cmsgpack.pack(rules))

-- At each level it stands where it belongs now: come back if its bucket is another or it is resumed.
at_each_level(account, function(rank, name, start)
  if not start then
    come_back(aside_name(account, rank))
  elseif is_account_paused(account) then
    set_aside(account, rank, name, start, '+inf')
  end
end)
serve_tickets()
save_lane()
wake(takers())
return 1
