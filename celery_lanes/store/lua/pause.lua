-- Stops or resumes grants; to resume ends a provider's wait, too. Atomic.
--
-- FLAGS: allow-oom
-- KEYS: queue leases idle meta
-- ARGV: channel tries lane_name is_wanted
--   is_wanted: '1' or '0'
-- RETURNS: 1
-- COST: O(1)

delete_first()
if is_wanted == '1' then
  redis.call('HSET', meta, 'paused', 1)
else
  redis.call('HDEL', meta, 'paused')
end
load_lane()
if lane.wait and is_wanted == '0' then
  lane.wait = nil
  save_lane()
end
wake(takers())
return 1
