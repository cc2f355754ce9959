-- Notes that a running call's provider was overloaded, and how long it asked to wait; once for each
-- attempt, in an adaptive lane. Atomic.
--
-- FLAGS: allow-oom
-- KEYS: calls leases meta
-- ARGV: call token wait
--   wait: ms, 0 = it did not ask
-- USES: adapting
-- RETURNS: 1, or 0 if the token is not the holder's
-- COST: O(1)

delete_first()
load_lane()
local r = record_of(call)
if not r or r.state ~= 'running' or r.token ~= token then return 0 end
if not rules.adaptive or r.reported then return 1 end
r.reported = true
keep(r)
note_overload(r)
note_provider_wait(tonumber(wait))
save_lane()
return 1
