-- Sets one of the lane's own buckets at run time; it stays in force whatever the rules say. Atomic.
--
-- FLAGS: allow-oom
-- KEYS: calls queue ring tags marks refill delayed leases victims closing idle holders meta
-- ARGV: channel tries lane_name what bucket
--   what: 'rate' or 'tokens'. bucket: as in _buckets.lua; '' = as configured, '-' = none
-- USES: ring fair tickets moves buckets grants steering
-- RETURNS: 1
-- COST: O(1), and O(callers that are steered)

delete_first()
load_lane()
local steered = steered_settings()
steered[what] = bucket ~= '' and bucket or nil
redis.call('HSET', meta, 'steered', cmsgpack.pack(steered))
hold_limits({ rate = rules.rate, tokens = rules.tokens }, given_settings(), steered)
redis.call('HSET', meta, 'rules', cmsgpack.pack(rules))
serve_tickets()
save_lane()
wake(takers())
return 1
