-- Forgets the failures of an LLM target and its provider that began before a success. Atomic.
--
-- FLAGS: allow-oom
-- KEYS: benches fading
-- ARGV: provider target entered most
--   entered: when the call began that succeeded, ms. most: entries remembered
-- USES: health
-- RETURNS: 1 if that ended a bench, else 0, also if it is repeated
-- COST: O(log n) for n entries

local found = known_entries(provider, target, tonumber(most))
local ended = 0
for i, name in ipairs({ provider, target }) do
  local entry = found[i]
  if entry and tonumber(entered) > (entry.benched or NEVER) then
    drop_entry(name)
    if entry.benched then ended = 1 end
  end
end
return ended
