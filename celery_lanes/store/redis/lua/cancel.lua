-- Moves the waiting and delayed calls of a task id to closing. Atomic.
--
-- FLAGS: allow-oom
-- KEYS: calls queue ring tags marks refill delayed leases victims closing idle holders meta
-- ARGV: channel tries lane_name task_id
-- USES: ring fair tickets moves buckets grants
-- RETURNS: how many are cancelled, by this call or by an earlier one whose reply was lost; -1 if none
--   is, but a call of this task id is here
-- COST: O(calls of this task id x log n), at most 500

delete_first()
load_lane()

local ids = redis.call('HGET', calls, 't:' .. task_id)
local cancelled, is_changed = 0, false
for _, id in ipairs(ids and cmsgpack.unpack(ids) or {}) do
  local r = record_of(id) or {}
  if r.state == 'waiting' or r.state == 'delayed' then
    close_waiting(r, 'cancelled')
    is_changed = true
  end
  if r.state == 'closing' and r.reason == 'cancelled' then cancelled = cancelled + 1 end
end

settle_down()
if is_changed then serve_tickets() end
save_lane()
wake(math.min(cancelled, 1))
return cancelled == 0 and ids and -1 or cancelled
