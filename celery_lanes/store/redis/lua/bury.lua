-- Forgets a dead letter by its call and the time when it was closed, in ms. Atomic.
--
-- FLAGS: allow-oom
-- KEYS: dead meta
-- ARGV: call died
-- RETURNS: 1, or 0 if there is none
-- COST: O(log n + letters of that millisecond)

delete_first()

local gone = 0
for _, letter in ipairs(redis.call('ZRANGEBYSCORE', dead, died, died)) do
  if cmsgpack.unpack(letter)[1].id == call then gone = redis.call('ZREM', dead, letter) end
end
return gone
