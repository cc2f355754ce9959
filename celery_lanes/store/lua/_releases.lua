-- What a worker says of the ends of its attempts, as in ledger.py.

local ended = 0

local outcomes = {}

function outcomes.done(r, cost)
  if cost then correct(r, math.max(1, cost)) end
  finish_charge(r)
  settle(r)
  ended = ended + 1
end

outcomes.back = put_back

outcomes.lost = lose

function outcomes.strange(r)
  if is_dead(r, 'strange') then return end
  correct(r, 0)
  delay(r, now + 1000 * 2 ^ math.min(r.losses - 1, 12))
end

local function release(id, token, outcome, cost)
  local r = record_of(id)
  if not r or r.state ~= 'running' or r.token ~= token then return end
  unlease(r)
  outcomes[outcome](r, cost)
end

-- Counts this second's ended calls; a second that is over goes into one of 60 fields.
local function count_ended()
  if ended == 0 then return end
  local second = math.floor(now / 1000)
  if lane.second ~= second then
    if lane.second then
      redis.call('HSET', meta, 'done:' .. lane.second % 60, string.format('%d %d', lane.second, lane.done))
    end
    lane.second, lane.done = second, 0
  end
  lane.done = lane.done + ended
end
