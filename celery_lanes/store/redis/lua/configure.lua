-- Writes a lane's rules; new weights and buckets hold for what waits already, but for what was set of
-- them at run time. Atomic.
--
-- FLAGS: allow-oom
-- KEYS: calls queue ring tags marks refill delayed leases victims closing idle holders meta
-- ARGV: channel tries lane_name version max_concurrent lease_ttl max_leases dedupe_ttl adaptive rate tokens preemption accounts ...
--   version: names these rules; the same again change nothing. Times in ms; adaptive is 1 or 0; a
--   bucket is as in _buckets.lua, or ''. preemption: '' or "min_runtime most fails". accounts: how many;
--   of each name, weight, bucket; then of each task its name and 1 if it is acknowledged early.
-- USES: ring fair tickets moves buckets grants steering
-- RETURNS: 1
-- COST: O(accounts), and O(levels x log n) for each that changes; 5,000 accounts at most

delete_first()
load_lane()

local last = rest + 3 * accounts - 1
for i = last + 1, #ARGV, 2 do
  redis.call('HSET', meta, 'early:' .. ARGV[i], ARGV[i + 1])
end
if rules.version == version then return 1 end

local old, before, steered = rules, given_settings(), steered_settings()
local given = { rate = rate, tokens = tokens, names = {}, callers = {} }
for i = rest, last, 3 do
  given.names[#given.names + 1] = ARGV[i]
  given.callers[ARGV[i]] = { weight = ARGV[i + 1], rate = ARGV[i + 2] ~= '' and ARGV[i + 2] or nil }
end
for _, account in ipairs(given.names) do
  local was, is = before.callers[account], given.callers[account]
  if not was or was.weight ~= is.weight or was.rate ~= is.rate then apply(account, given, steered) end
end
for _, account in ipairs(before.names) do
  if not given.callers[account] then apply(account, given, steered) end
end

local min_runtime, most, fails = string.match(preemption, '^(%d+) (%d+) (%d)$')
rules = {
  version = version,
  max_concurrent = tonumber(max_concurrent),
  lease_ttl = tonumber(lease_ttl),
  max_leases = tonumber(max_leases),
  dedupe_ttl = tonumber(dedupe_ttl),
  min_runtime = tonumber(min_runtime),
  max_preemptions = tonumber(most),
  fails_preempted = fails == '1' or nil,
  adaptive = adaptive == '1' or nil,
}
if not rules.adaptive then
  lane.learned, lane.successes, lane.cut = nil, nil, nil
end
hold_limits(old, given, steered)
note_accounts(given, steered)
redis.call('HSET', meta, 'rules', cmsgpack.pack(rules), 'given', cmsgpack.pack(given))

for _, aside in ipairs(redis.call('ZRANGE', refill, 0, -1)) do
  come_back(aside) -- its bucket may be another now
end
save_lane()
load_lane()
serve_tickets()
save_lane()
wake(takers())
return 1
