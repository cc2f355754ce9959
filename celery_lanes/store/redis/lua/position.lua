-- Reads where the youngest call of a task id stands: what goes before it in fair order, and what may
-- hold it up; as in survey.py. One consistent reading.
--
-- FLAGS: no-writes
-- KEYS: calls queue ring tags marks leases workers meta
-- ARGV: task_id
-- USES: ring fair buckets standing
-- RETURNS: the facts, see standing_of; nil if there is no such call
-- COST: O(accounts that go before it x log n), at most 250 of them, and 100 running calls

load_lane()
local ids = redis.call('HGET', calls, 't:' .. task_id)
ids = ids and cmsgpack.unpack(ids) or {}
return #ids > 0 and standing_of(ids[#ids])
