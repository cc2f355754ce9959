-- Writes a lane's rules; new weights and buckets hold for what waits already. Atomic.
--
-- FLAGS: allow-oom
-- KEYS: calls queue ring tags marks refill delayed leases closing idle holders meta
-- ARGV: channel tries lane_name version max_concurrent lease_ttl max_leases dedupe_ttl rate tokens preemption accounts ...
--   version: names these rules; the same again change nothing. Times in ms; a bucket is
--   "interval burst" or ''. preemption: '' or "min_runtime most fails". accounts: how many; of each name, weight, bucket; then of each task
--   its name and 1 if it is acknowledged early.
-- USES: ring fair tickets moves buckets grants
-- RETURNS: 1
-- COST: O(accounts x levels x log n)

delete_first()
load_lane()

local last = rest + 3 * accounts - 1
for i = last + 1, #ARGV, 2 do
  redis.call('HSET', meta, 'early:' .. ARGV[i], ARGV[i + 1])
end
if rules.version == version then return 1 end

-- The first call of an account from a rank on: its rank, if there are any, and its place.
local function first_from(account, rank)
  local least = rank and string.format('[%s:%04d:', account, rank) or '[' .. account .. ':'
  local place = redis.call('ZRANGEBYLEX', queue, least, '(' .. account .. ';', 'LIMIT', 0, 1)[1]
  return place and lane.levels and tonumber(string.sub(place, #account + 2, #account + 5)), place
end

local function reweigh(account, weight)
  local rank, place = first_from(account)
  while place do
    if start_of(account, rank, ring_name(account, place)) then
      local clock = clock_of(rank)
      clock.weights = clock.weights + (weight - weight_of(account))
    end
    if not rank then return end
    rank, place = first_from(account, rank + 1)
  end
end

local kept, names = {}, {}
for i = rest, last, 3 do
  reweigh(ARGV[i], tonumber(ARGV[i + 1]))
  kept[ARGV[i]] = true
  names[#names + 1] = ARGV[i]
end
for _, account in ipairs(cmsgpack.unpack(redis.call('HGET', meta, 'accounts') or cmsgpack.pack({}))) do
  redis.call('HDEL', meta, 'rate:' .. account)
  if not kept[account] then
    reweigh(account, 1)
    redis.call('HDEL', meta, 'weight:' .. account, 'full:' .. account)
  end
end
for i = rest, last, 3 do
  redis.call('HSET', meta, 'weight:' .. ARGV[i], ARGV[i + 1])
  if ARGV[i + 2] ~= '' then redis.call('HSET', meta, 'rate:' .. ARGV[i], ARGV[i + 2]) end
end

local min_runtime, most, fails = string.match(preemption, '^(%d+) (%d+) (%d)$')
rules = {
  version = version,
  max_concurrent = tonumber(max_concurrent),
  lease_ttl = tonumber(lease_ttl),
  max_leases = tonumber(max_leases),
  dedupe_ttl = tonumber(dedupe_ttl),
  rate = rate ~= '' and rate or nil,
  tokens = tokens ~= '' and tokens or nil,
  has_accounts = #names > 0,
  min_runtime = tonumber(min_runtime),
  max_preemptions = tonumber(most),
  fails_preempted = fails == '1' or nil,
}
redis.call('HSET', meta, 'rules', cmsgpack.pack(rules), 'accounts', cmsgpack.pack(names))

weights_known = {}
for _, aside in ipairs(redis.call('ZRANGE', refill, 0, -1)) do
  come_back(aside) -- its bucket may be another now
end
save_lane()
load_lane()
serve_tickets()
save_lane()
wake(takers())
return 1
