-- Reads where the youngest call of a task id stands: what goes before it in fair order, and what may
-- hold it up; as in survey.py. One consistent reading.
--
-- FLAGS: no-writes
-- KEYS: calls queue ring tags marks leases workers meta
-- ARGV: task_id
-- USES: ring fair buckets standing
-- RETURNS: {state, {own and others' calls ahead, running, workers, ms until it is due, until its
--   caller's rate, the lane's rate and the lane's tokens let it pass, 1 if others' are at least so
--   many, 1 in a fifo lane, 1 if paused, cap or -1}, ms that running calls have run, last service
--   times in 4 bytes each}; nil if there is no such call
-- COST: O(accounts that go before it x log n), at most 250 of them, and 100 running calls

load_lane()
local ids = redis.call('HGET', calls, 't:' .. task_id)
ids = ids and cmsgpack.unpack(ids) or {}
local r = ids[#ids] and record_of(ids[#ids])
if not r then return false end

local own, others, cost, beyond = 0, 0, 0, 0
if r.state == 'waiting' or r.state == 'delayed' then
  own, others, cost, beyond = ahead_of(r)
end
local by_caller, by_rate, by_tokens = buckets_pass_in(r, own, own + others, cost)

return {
  r.state,
  {
    own,
    others,
    redis.call('ZCARD', leases),
    redis.call('ZCOUNT', workers, now - rules.lease_ttl, '+inf'),
    r.state == 'delayed' and math.max(0, r.since - now) or 0,
    by_caller,
    by_rate,
    by_tokens,
    beyond > 0 and 1 or 0,
    r.account == '*' and 1 or 0,
    is_paused and 1 or 0,
    cap or -1,
  },
  running_ms(),
  lane.times or '',
}
