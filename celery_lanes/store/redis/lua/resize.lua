-- Changes the cap in force for the whole cluster, at once. Atomic.
--
-- FLAGS: allow-oom
-- KEYS: calls queue ring tags marks refill delayed leases victims closing idle holders meta
-- ARGV: channel tries lane_name slots
--   slots: '' = as configured
-- USES: ring fair tickets moves buckets grants
-- RETURNS: 1
-- COST: O(1); O(log n) for each ticket that it lets go

delete_first()
if slots == '' then
  redis.call('HDEL', meta, 'override')
else
  redis.call('HSET', meta, 'override', slots)
end
load_lane()
if lane.tickets then
  serve_tickets()
  save_lane()
end
wake(takers())
return 1
