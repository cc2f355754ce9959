-- Notes that the lane from which a call came has let it go: nobody will bring it again, so it need not
-- be remembered for longer than any other. Atomic.
--
-- FLAGS: allow-oom
-- KEYS: calls settled meta
-- ARGV: call
-- RETURNS: 1
-- COST: O(log n)

delete_first()
load_lane()
local r = record_of(call)
if r then
  r.redelivery = nil
  keep(r)
else
  redis.call('ZADD', settled, 'XX', 'LT', now + rules.dedupe_ttl, call)
end
return 1
