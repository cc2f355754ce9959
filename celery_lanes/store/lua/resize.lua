-- Changes the cap in force for the whole cluster, at once. Atomic.
--
-- FLAGS: allow-oom
-- KEYS: queue leases idle meta
-- ARGV: channel tries lane_name slots
--   slots: '' = as configured
-- RETURNS: 1
-- COST: O(1)

delete_first()
if slots == '' then
  redis.call('HDEL', meta, 'override')
else
  redis.call('HSET', meta, 'override', slots)
end
load_lane()
wake(takers())
return 1
