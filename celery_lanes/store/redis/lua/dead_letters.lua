-- Reads the youngest dead letters, the youngest first. One consistent reading.
--
-- Those of one millisecond come together, also beyond the limits: the next page begins before it.
-- "before" is a score's upper bound: "+inf", or "(" and a time in ms.
--
-- FLAGS: no-writes
-- KEYS: dead
-- ARGV: limit before
-- RETURNS: of each {ms when it was closed, {call, task id, task, caller, how it last ended},
--   priority, attempts, 1 if it is preemptible, cost, envelope}
-- COST: O((limit + letters of one millisecond) x log n)

local PAGE_BYTES = 4194304 -- of messages

local letters, room, last = {}, PAGE_BYTES, nil
while true do
  local packed, died = unpack(redis.call('ZREVRANGEBYSCORE', dead, before, '-inf', 'WITHSCORES', 'LIMIT', #letters, 1))
  if not packed then break end
  local r, envelope = unpack(cmsgpack.unpack(packed))
  room = room - #(envelope or '')
  if last and died ~= last and (#letters >= tonumber(limit) or room < 0) then break end
  last = died
  letters[#letters + 1] = {
    tonumber(died),
    { r.id, r.task_id, r.task, r.caller, r.last or 'lost' },
    r.priority,
    r.attempts or 0,
    r.preemptible and 1 or 0,
    string.format('%.17g', r.cost),
    envelope or '',
  }
end
return letters
