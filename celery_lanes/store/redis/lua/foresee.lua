-- Says how long a call would wait if it were admitted now, as admit does with a max_wait; it is not.
--
-- FLAGS: no-writes
-- KEYS: calls queue ring tags marks leases workers meta
-- ARGV: account priority cost has_waited
-- USES: ring fair buckets standing
-- RETURNS: {how many go before it, wait in ms}; nil if nobody can tell
-- COST: as of position

load_lane()
local ahead, wait = wait_of({
  id = '', account = account, priority = tonumber(priority), cost = tonumber(cost),
  seq = lane.seq + 1, since = now, waited = has_waited == '1' or nil,
})
return wait and { ahead, math.floor(wait) }
