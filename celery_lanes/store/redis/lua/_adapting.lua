-- What an adaptive lane learns of its provider, as in adapting.py, where it is explained: "learned" is its
-- cap, nil while there is nothing to learn from; "successes" since it changed, "cut" when it was cut last.

-- What was granted before the cut tells of the cap before it.
local function is_news(r)
  local cut = lane.cut or 0
  return r.granted > cut or cut > now
end

-- Halves the cap, if the refused call was granted under the present one.
local function note_overload(r)
  if not cap or not is_news(r) then return end
  lane.learned, lane.successes, lane.cut = math.max(1, math.floor(cap / 2)), 0, now
  note_cap()
end

-- Waits for as long as the provider asks; never shorter than it has asked before.
local function note_provider_wait(asked)
  local longest = math.max(provider_wait(), math.min(asked, MAX_PROVIDER_WAIT))
  lane.wait = longest > 0 and now + longest or nil
end

-- Counts a call that has just left its slot; forgets the cap where it binds no more.
local function note_success(r)
  if lane.learned >= ceiling or not is_news(r) then return end
  if 2 * (redis.call('ZCARD', leases) + 1) < lane.learned then return end
  lane.successes = lane.successes + 1
  if lane.successes >= lane.learned then lane.learned, lane.successes = lane.learned + 1, 0 end
  if lane.learned >= math.max(ceiling, rules.max_concurrent) then lane.learned = nil end
  note_cap()
end
