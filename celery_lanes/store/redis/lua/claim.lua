-- A holder's turn: ends what it gives back, grants the tickets whose turn it is, and tells which of
-- its own have been granted or are gone. All of it is atomic. What it does not say that it knows is
-- told again.
--
-- FLAGS: allow-oom
-- KEYS: calls queue ring tags marks refill delayed leases victims closing idle holders settled meta
-- ARGV: channel tries lane_name holder known ...
--   known: how many tickets are named first, as it knows them: call, token or '' if it is gone. Then
--   of each release its six words, see release.
-- USES: ring fair tickets moves adapting releases buckets grants preemption
-- RETURNS: {ms until something is due or -1, {call, token}... of the slots that it must give back, of
--   each ticket its call, its token or '' if it is gone...}; nil without rules. The former in one list
-- COST: O((releases + grants + news) log n); 500 tickets told at most

local TOLD_AT_ONCE, FORGET_AT_MOST = 500, 200

delete_first()
load_lane()
tick()
hear_of(holder)

local first, heard = rest + 2 * known, {}
for i = rest, first - 1, 2 do heard[ARGV[i]] = ARGV[i + 1] end
if first > rest then forget_news(holder, heard) end

local released, ended = 0, 0
for i = first, #ARGV, 6 do
  ended = ended + release(unpack(ARGV, i, i + 5))
  released = released + 1
end
count_ended(ended)
settle_down()
if not rules.max_concurrent then
  save_lane()
  return false
end

local due = promote()
if released > 0 then
  forget_tags(FORGET_AT_MOST)
  trim_settled(FORGET_AT_MOST)
end
local blocked_until = serve_tickets()
local room_at = preempt()
save_lane()
wake(math.min(released, takers()))
if lane.tickets and not blocked_until and free_slots() > 0 then
  wake(1) -- for the call before it, if a worker is there; if none is, the ticket may pass it then
  due = math.min(due, now + COMING_MS)
end

local answer, fresh = { due_in_ms(due, blocked_until, room_at), marked_of(holder) }, news_of(holder)
for i = 1, math.min(#fresh, TOLD_AT_ONCE) do
  local held_by = token_of(fresh[i], holder)
  if held_by ~= '' then extend_slot(fresh[i]) end -- granted long ago perhaps, and used from now on
  answer[#answer + 1] = fresh[i]
  answer[#answer + 1] = held_by
end
return answer
