-- Reads who has the running calls whose leases end first: so many with a slot, so many without one. One
-- consistent reading.
--
-- FLAGS: no-writes
-- KEYS: calls leases closing
-- ARGV: limit longest_read longest_head
--   longest_read, longest_head: bytes of a message, and of its first line; of longer ones it is ''.
-- RETURNS: of each {{call, task id, task, caller, worker}, {priority, attempt, ms since its grant, 1 if
--   it runs without a slot}, the first line of its message}
-- COST: O(log n + limit), and the messages are read

longest_read, longest_head = tonumber(longest_read), tonumber(longest_head)

local function head_of(id)
  if redis.call('HSTRLEN', calls, 'e:' .. id) > longest_read then return '' end
  local head = string.match(redis.call('HGET', calls, 'e:' .. id) or '', '^[^\n]*')
  return #head <= longest_head and head or ''
end

local out = {}
local function tell(id)
  local r = record_of(id)
  if r.state ~= 'running' then return end -- a result is being written
  out[#out + 1] = {
    { r.id, r.task_id, r.task, r.caller, r.worker },
    { r.priority, r.attempts, math.max(0, now - r.granted), r.established and 1 or 0 },
    head_of(id),
  }
end

for _, id in ipairs(redis.call('ZRANGE', leases, 0, limit - 1)) do tell(id) end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', closing, '(0', '+inf', 'LIMIT', 0, limit)) do tell(id) end
return out
