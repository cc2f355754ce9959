-- Enters a failure of an LLM target or its provider, and gives back the leave to ask it. Atomic. The report
-- that an entry heard last is not entered twice.
--
-- FLAGS: allow-oom
-- KEYS: benches fading
-- ARGV: provider target token entered health said asked threshold first multiplier longest most
--   entered: ms. health: as in health.py. said: names the report. asked: ms, 0 = nothing. first, longest: a
--   bench in ms. most: entries remembered
-- USES: health
-- RETURNS: for how many ms the target is benched, as text
-- COST: O(log n) for n entries

local found = known_entries(provider, target, tonumber(most))

-- Benches an entry, unless it is one failure among too few.
local function note_failure(entry)
  local is_counted = health == 'count' or health == 'count_provider'
  if is_counted and entry.prober ~= token and entry.failures + 1 < tonumber(threshold) then
    entry.failures = entry.failures + 1
    return
  end
  local cooldown = math.min(tonumber(longest), math.max(tonumber(first), entry.cooldown * multiplier))
  entry.failures, entry.cooldown, entry.benched = 0, cooldown, now
  entry.till = math.max(entry.till or NEVER, now + math.max(cooldown, asked))
  entry.prober, entry.tried = nil, nil
end

local function fail(at, name)
  local entry = found[at] or { failures = 0, cooldown = 0 }
  if entry.said == said then return end
  if tonumber(entered) >= (entry.till or NEVER) then
    note_failure(entry)
  else -- part of what this bench is for
    local longer = now + asked
    if health ~= 'bench' or tonumber(asked) == 0 or longer <= entry.till then return end
    entry.till = longer
  end
  found[at], entry.said = entry, said
  keep_entry(name, entry, tonumber(most))
end

if health == 'count_provider' or health == 'bench_provider' or provider == target then
  if health ~= 'none' then fail(1, provider) end
elseif health ~= 'none' then
  fail(2, target)
end

for i, name in ipairs({ provider, target }) do
  local entry = found[i]
  if entry and entry.prober == token then
    entry.prober, entry.tried = nil, nil
    keep_entry(name, entry, tonumber(most))
  end
end
return string.format('%.17g', benched_for(found))
