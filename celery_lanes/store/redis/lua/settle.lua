-- Charges what a running call really cost; the last word wins. Atomic.
--
-- FLAGS: allow-oom
-- KEYS: calls queue ring tags marks meta
-- ARGV: call token cost
-- USES: ring fair
-- RETURNS: 1, or 0 if the token is not the holder's
-- COST: O(log n)

delete_first()
load_lane()
local r = record_of(call)
if not r or r.state ~= 'running' or r.token ~= token then return 0 end
correct(r, math.max(1, tonumber(cost)))
keep(r)
save_lane()
return 1
