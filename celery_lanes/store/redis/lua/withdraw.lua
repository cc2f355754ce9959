-- Takes back a ticket that waits, unless it has been granted: then its holder has the slot. Atomic.
--
-- FLAGS: allow-oom
-- KEYS: calls queue ring tags marks refill delayed leases victims closing idle holders meta
-- ARGV: channel tries lane_name holder call
-- USES: ring fair tickets moves buckets grants
-- RETURNS: the lease's token, if it has been granted; '' if it does not wait any more
-- COST: O(log n)

delete_first()
load_lane()
local r = record_of(call)
if not r or r.holder ~= holder then return '' end
if r.state == 'running' then return r.token end

stop_waiting(r)
forget(r)
settle_down()
serve_tickets()
save_lane()
wake(math.min(1, takers()))
return ''
