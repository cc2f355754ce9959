-- Moves a page of a caller's waiting or delayed calls to closing. Atomic, and a repeat goes on where
-- a lost reply left off.
--
-- FLAGS: allow-oom
-- KEYS: calls queue ring tags marks refill delayed leases victims closing idle holders meta
-- ARGV: channel tries lane_name caller state account at
--   state: 'delayed' or 'waiting'. account: where the waiting ones are. at: '' for the first page,
--   else what the page before has returned.
-- USES: ring fair tickets moves buckets grants
-- RETURNS: how many are cancelled, and where the next page begins, '' after the last
-- COST: O(log n) for each of 100 calls

local PAGE = 100

delete_first()
load_lane()

local function is_cancelled(id)
  local r = record_of(id)
  if r.caller ~= caller then return false end
  close_waiting(r, 'cancelled')
  return true
end

local ids, after = {}, nil
if state == 'delayed' then
  local passed = tonumber(at) or 0 -- from the end: where calls become due, the ranks do not move
  ids = redis.call('ZREVRANGE', delayed, passed, passed + PAGE - 1)
else
  local from = at == '' and '[' .. account .. ':' or '(' .. at
  local places = redis.call('ZRANGEBYLEX', queue, from, '(' .. account .. ';', 'LIMIT', 0, PAGE)
  for i, place in ipairs(places) do ids[i] = call_at(place, account) end
  after = places[PAGE]
end

local cancelled = 0
for _, id in ipairs(ids) do
  if is_cancelled(id) then cancelled = cancelled + 1 end
end
if state == 'delayed' and #ids == PAGE then after = (tonumber(at) or 0) + PAGE - cancelled end

settle_down()
if cancelled > 0 then serve_tickets() end
save_lane()
wake(math.min(cancelled, 1))
return { cancelled, tostring(after or '') }
