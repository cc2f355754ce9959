-- What a worker says of the ends of its attempts, as in ledger.py.

local outcomes, TIMES_KEPT, TIMES_APART_MS = {}, 63, 20

function outcomes.failed(r, cost)
  if cost then correct(r, math.max(1, cost)) end
  finish_charge(r)
  settle(r)
end

-- Keeps how long a call held its slot, which it has left in a good way, in 4 bytes, 49 days at most.
-- Where many calls end, some of them tell enough.
local function note_end(r)
  if math.abs(now - (lane.timed or 0)) >= TIMES_APART_MS then
    local ms = math.min(math.max(0, now - r.granted), 2 ^ 32 - 1)
    lane.times = string.sub((lane.times or '') .. struct.pack('>I4', ms), -4 * TIMES_KEPT)
    lane.timed = now
  end
  if lane.learned and not r.reported then note_success(r) end
end

function outcomes.done(r, cost)
  note_end(r)
  outcomes.failed(r, cost)
end

-- Gives a call another message, which says how far it has come.
local function rewrite(r, envelope)
  redis.call('HSET', calls, 'e:' .. r.id, envelope)
end

function outcomes.back(r, _, _, wait, envelope)
  if envelope ~= '' then rewrite(r, envelope) end
  if wait == 0 or r.holder then return put_back(r) end
  correct(r, 0)
  delay(r, now + wait)
end

-- It goes on in another lane; what it took of this one, it has been served.
function outcomes.moved(r, cost, _, _, envelope)
  if cost then correct(r, math.max(1, cost)) end
  lane.leaving = (lane.leaving or 0) + 1
  rewrite(r, envelope)
  finish_charge(r)
  to_closing(r, 'moved')
end

function outcomes.preempted(r, _, was_marked)
  if not was_marked then return put_back(r) end
  r.preemptions = (r.preemptions or 0) + 1
  if not rules.fails_preempted then return put_back(r) end
  finish_charge(r)
  to_closing(r, 'preempted')
end

outcomes.lost = lose

function outcomes.strange(r)
  if is_dead(r, 'strange') then return end
  correct(r, 0)
  delay(r, now + 1000 * 2 ^ math.min(r.losses - 1, 12))
end

-- Ends an attempt: call, token, outcome, real cost ('' = unknown), ms that it waits, envelope ('' = as it
-- is); gives how many calls have ended with it.
local function release(id, token, outcome, cost, wait, envelope)
  local r = record_of(id)
  if not r or r.state ~= 'running' or r.token ~= token then return 0 end
  local was_marked, was_established = r.marked, r.established
  unlease(r)
  if was_established and outcome == 'done' then outcome = 'failed' end -- it has told its time already
  outcomes[outcome](r, tonumber(cost), was_marked, tonumber(wait), envelope)
  return (outcome == 'done' or outcome == 'failed') and 1 or 0
end

-- Counts this second's ended calls, and those that have just moved; a second that is over goes into one
-- of 60 fields.
local function count_ended(ended)
  if ended == 0 and not lane.leaving then return end
  local second = math.floor(now / 1000)
  if lane.second ~= second then
    if lane.second then
      local counts = string.format('%d %d %d', lane.second, lane.done, lane.moved or 0)
      redis.call('HSET', meta, 'done:' .. lane.second % 60, counts)
    end
    lane.second, lane.done, lane.moved = second, 0, nil
  end
  lane.done = lane.done + ended
  if lane.leaving then lane.moved, lane.leaving = (lane.moved or 0) + lane.leaving, nil end
end
