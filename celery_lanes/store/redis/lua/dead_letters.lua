-- Reads the youngest dead letters, the youngest first. One consistent reading.
--
-- Those of one millisecond come together, also beyond the limit: the next page begins before it.
-- "before" is a score's upper bound: "+inf", or "(" and a time in ms.
--
-- FLAGS: no-writes
-- KEYS: dead
-- ARGV: limit before
-- RETURNS: of each {ms when it was closed, {call, task id, task, caller, how it last ended},
--   priority, attempts, 1 if it is preemptible, cost, envelope}
-- COST: O(log n + limit + letters of one millisecond)

local last = redis.call('ZREVRANGEBYSCORE', dead, before, '-inf', 'WITHSCORES', 'LIMIT', 0, limit)
if #last == 0 then return {} end

local letters = {}
local found = redis.call('ZREVRANGEBYSCORE', dead, before, last[#last], 'WITHSCORES')
for i = 1, #found, 2 do
  local r, envelope = unpack(cmsgpack.unpack(found[i]))
  letters[#letters + 1] = {
    tonumber(found[i + 1]),
    { r.id, r.task_id, r.task, r.caller, r.last or 'lost' },
    r.priority,
    r.attempts or 0,
    r.preemptible and 1 or 0,
    string.format('%.17g', r.cost),
    envelope or '',
  }
end
return letters
