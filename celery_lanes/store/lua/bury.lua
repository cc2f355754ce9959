-- Forgets a dead letter. Atomic.
--
-- KEYS: dead meta
-- ARGV: call
-- RETURNS: 1, or 0 if there is none
-- COST: O(dead letters), at most 1,000 are kept

delete_first()

local gone = 0
for _, letter in ipairs(redis.call('ZRANGE', dead, 0, -1)) do
  if cmsgpack.unpack(letter)[1].id == call then gone = redis.call('ZREM', dead, letter) end
end
return gone
