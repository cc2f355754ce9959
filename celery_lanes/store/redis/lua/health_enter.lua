-- Gives leave to ask an LLM target, or says for how long it is benched. Atomic. Repeated with the same
-- token it says the same again.
--
-- FLAGS: allow-oom
-- KEYS: benches fading
-- ARGV: provider target token probe alone most
--   probe: ms after which a probe is given up. alone: 1 = never kept out. most: entries remembered
-- USES: health
-- RETURNS: {0, now, 1 if it is the provider's probe, 1 if it is the target's}, or {1, ms as text} if
--   benched, or {2, ms as text} if another call tries it
-- COST: O(1)

local found = known_entries(provider, target, tonumber(most))
local left = benched_for(found)
if left > 0 and alone == '0' then return { 1, string.format('%.17g', left) } end

local free = { 0, 0 }
for i = 1, 2 do
  local entry = found[i]
  if entry and entry.till and entry.till <= now then
    local tried = entry.prober ~= token and entry.tried or NEVER
    left = math.max(left, tried - now)
    if tried <= now then free[i] = 1 end
  end
end
if left > 0 and alone == '0' then return { 2, string.format('%.17g', left) } end

for i, name in ipairs({ provider, target }) do
  if free[i] == 1 then
    found[i].prober, found[i].tried = token, now + probe
    keep_entry(name, found[i], tonumber(most))
  end
end
return { 0, now, free[1], free[2] }
