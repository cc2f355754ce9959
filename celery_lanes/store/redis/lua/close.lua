-- Settles a closing call whose result has been written; a dead letter is kept. Atomic.
--
-- FLAGS: allow-oom
-- KEYS: calls closing leases settled dead meta
-- ARGV: call token
-- USES: moves
-- RETURNS: 1, or 0 if the token is not the holder's
-- COST: O(log n)

delete_first()
load_lane()
local r = record_of(call)
if not r or r.state ~= 'closing' or r.token ~= token then return 0 end
if r.reason == 'dead' then
  local envelope = redis.call('HGET', calls, 'e:' .. r.id)
  redis.call('ZADD', dead, now, cmsgpack.pack({ r, envelope }))
end
unlease(r)
redis.call('ZREM', closing, r.id)
settle(r)
return 1
