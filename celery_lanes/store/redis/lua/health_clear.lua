-- Forgets what is known of an LLM target, or of a provider. Atomic.
--
-- FLAGS: allow-oom
-- KEYS: benches fading
-- ARGV: name
-- USES: health
-- RETURNS: 1 if anything was known
-- COST: O(log n) for n entries

local packed = redis.call('HGET', benches, name)
drop_entry(name)
return packed and cmsgpack.unpack(packed).fades > now and 1 or 0
