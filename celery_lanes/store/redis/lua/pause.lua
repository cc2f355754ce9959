-- Stops or resumes grants; to resume ends a provider's wait, too. Atomic.
--
-- FLAGS: allow-oom
-- KEYS: calls queue ring tags marks refill delayed leases victims closing idle holders meta
-- ARGV: channel tries lane_name is_wanted
--   is_wanted: '1' or '0'
-- USES: ring fair tickets moves buckets grants
-- RETURNS: 1
-- COST: O(1); O(log n) for each ticket that it lets go

delete_first()
if is_wanted == '1' then
  redis.call('HSET', meta, 'paused', 1)
else
  redis.call('HDEL', meta, 'paused')
end
load_lane()
if lane.wait and is_wanted == '0' then lane.wait = nil end
serve_tickets()
save_lane()
wake(takers())
return 1
