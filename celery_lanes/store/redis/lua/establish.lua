-- Takes the slot of a running call, whose stream has been established, and leaves it its lease. Atomic.
-- The slot has ended well: what that tells is told now, and not when the call ends.
--
-- FLAGS: allow-oom
-- KEYS: calls queue ring tags marks refill delayed leases victims closing idle holders meta
-- ARGV: channel tries lane_name call token
-- USES: ring fair tickets moves adapting releases buckets grants
-- RETURNS: 1, or 0 if the token is not the holder's
-- COST: O(log n); O(log n) for each ticket that it lets go

delete_first()
load_lane()
local r = record_of(call)
if not r or r.state ~= 'running' or r.token ~= token or r.holder then return 0 end
if r.established then return 1 end

local expires = redis.call('ZSCORE', leases, call)
local worker = r.worker
unlease(r)
redis.call('ZADD', closing, expires, call)
count_established(1)
r.worker, r.token, r.established = worker, token, true
keep(r)
note_end(r)
serve_tickets()
save_lane()
wake(math.min(1, takers()))
return 1
