-- Wall-clock buckets (GCRA), as in fairness.py: of the lane, and of some callers.
-- A bucket is kept as "interval burst count period": ms for one unit to refill, units at most; then what
-- the interval was made of, for people to read.
local function ready_at(bucket, full_at, cost)
  if not bucket then return 0 end
  local interval, burst = string.match(bucket, '^(%S+) (%S+)')
  return full_at - (burst - math.min(cost, burst)) * interval
end

-- When it is full again, at the latest: as long after now as it takes if it is empty, and no call costs more
-- than 1. A clock that has gone back would say otherwise.
local function full_at_last(bucket)
  if not bucket then return math.huge end
  local interval, burst = string.match(bucket, '^(%S+) (%S+)')
  return now + burst * interval
end

-- In how many ms something is due, within what an answer can hold: a slow bucket may ask for more.
local function ms_until(at)
  return math.min(math.ceil(at - now), 2 ^ 52)
end

-- How many calls of cost 1 it lets pass now.
local function passing(bucket, full_at)
  if not bucket then return math.huge end
  if ready_at(bucket, full_at, 1) > now then return 0 end
  local interval, burst = string.match(bucket, '^(%S+) (%S+)')
  return math.max(1, math.floor(burst - math.max(0, full_at - now) / interval))
end

local function spent(bucket, full_at, cost)
  if not bucket then return full_at end
  return math.max(full_at, now) + cost * string.match(bucket, '^%S+')
end

-- When a bucket is full again that takes the place of another: what is missing refills anew.
local function rescaled(full_at, old, bucket)
  if not bucket then return 0 end
  local was, is = old and tonumber(string.match(old, '^%S+')), tonumber(string.match(bucket, '^%S+'))
  if not was or full_at <= now or was == is then return full_at end
  return now + (full_at - now) * (is / was)
end

local function lane_ready_at(cost)
  return math.max(ready_at(rules.rate, lane.rate_full, 1), ready_at(rules.tokens, lane.tokens_full, cost))
end

local function lane_passing()
  return math.min(passing(rules.rate, lane.rate_full), passing(rules.tokens, lane.tokens_full))
end
