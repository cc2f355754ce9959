-- Reads the youngest dead letters, the youngest first. One consistent reading.
--
-- KEYS: dead
-- ARGV: limit
-- RETURNS: of each {ms when it was closed, {call, task id, task, caller, how it last ended},
--   priority, attempts, cost, envelope}
-- COST: O(log n + limit)

local letters = {}
local found = redis.call('ZREVRANGE', dead, 0, limit - 1, 'WITHSCORES')
for i = 1, #found, 2 do
  local r, envelope = unpack(cmsgpack.unpack(found[i]))
  letters[#letters + 1] = {
    tonumber(found[i + 1]),
    { r.id, r.task_id, r.task, r.caller, r.last or 'lost' },
    r.priority,
    r.attempts or 0,
    string.format('%.17g', r.cost),
    envelope or '',
  }
end
return letters
