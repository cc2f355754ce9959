-- Moves the waiting and delayed calls of a task id to closing; if there is none of that id at all,
-- remembers to do so with what comes. Atomic.
--
-- FLAGS: allow-oom
-- KEYS: calls queue ring tags marks refill delayed leases closing idle settled meta
-- ARGV: channel tries lane_name task_id remember
--   remember: for how many ms, 0 for not at all
-- USES: ring fair moves
-- RETURNS: how many are cancelled, by this call or by an earlier one whose reply was lost
-- COST: O(calls of this task id x log n), at most 500

delete_first()
load_lane()

local ids = redis.call('HGET', calls, 't:' .. task_id)
local cancelled = 0
for _, id in ipairs(ids and cmsgpack.unpack(ids) or {}) do
  local r = record_of(id) or {}
  if r.state == 'waiting' or r.state == 'delayed' then close_waiting(r, 'cancelled') end
  if r.state == 'closing' and r.reason == 'cancelled' then cancelled = cancelled + 1 end
end

if not ids and remember ~= '0' then
  local known_until = now + remember
  redis.call('ZADD', settled, known_until, 'cancelled:' .. task_id)
  lane.cancelled = math.max(lane.cancelled or 0, known_until)
end
settle_down()
save_lane()
wake(math.min(cancelled, 1))
return cancelled
