-- Notes that a running call's provider was overloaded, which counts in an adaptive lane, and how long
-- it asked to wait; once for each attempt. Or, of one that answered, what it said of its limits, which
-- only an adaptive lane goes by; each time. Atomic.
--
-- FLAGS: allow-oom
-- KEYS: calls leases meta
-- ARGV: call token wait quota
--   wait: ms, 0 = it did not ask; quota: '' = it refused the call, else "name left of resets", with
--   "-" for what it does not say
-- USES: adapting
-- RETURNS: 1, or 0 if the token is not the holder's
-- COST: O(1)

delete_first()
load_lane()
local r = record_of(call)
if not r or r.state ~= 'running' or r.token ~= token then return 0 end
wait = tonumber(wait)
if quota ~= '' then
  if not rules.adaptive then return 1 end
  note_provider_wait(wait)
  save_lane('quota', string.format('%d %s', now, quota))
  return 1
end
if r.reported or not rules.adaptive and wait == 0 then return 1 end
r.reported = true
keep(r)
if rules.adaptive then note_overload(r) end
note_provider_wait(wait)
save_lane()
return 1
