-- Writes a lane's rules; new weights and buckets hold for what waits already. Atomic.
--
-- KEYS: queue ring tags refill leases idle meta
-- ARGV: channel tries lane_name version max_concurrent lease_ttl max_leases dedupe_ttl rate tokens accounts ...
--   version: names these rules; the same again change nothing. Times in ms; a bucket is
--   "interval burst" or ''. accounts: how many; of each name, weight, bucket; then of each task
--   its name and 1 if it is acknowledged early.
-- USES: fair
-- RETURNS: 1
-- COST: O(accounts log n)

delete_first()
load_lane()

local last = rest + 3 * accounts - 1
for i = last + 1, #ARGV, 2 do
  redis.call('HSET', meta, 'early:' .. ARGV[i], ARGV[i + 1])
end
if redis.call('HGET', meta, 'version') == version then return 1 end

local function reweigh(account, weight)
  local first = head(account)
  if first and redis.call('ZSCORE', ring, ring_name(account, first)) then
    lane.weights = lane.weights + (weight - weight_of(account))
  end
  redis.call('HSET', meta, 'weight:' .. account, weight)
end

local function set_or_clear(field, value)
  if value == '' then redis.call('HDEL', meta, field) else redis.call('HSET', meta, field, value) end
end

local new = {}
for i = rest, last, 3 do new[ARGV[i]] = true end
for _, account in ipairs(cmsgpack.unpack(redis.call('HGET', meta, 'accounts') or cmsgpack.pack({}))) do
  if not new[account] then
    reweigh(account, 1)
    redis.call('HDEL', meta, 'weight:' .. account, 'rate:' .. account, 'full:' .. account)
  end
end
local names = {}
for i = rest, last, 3 do
  names[#names + 1] = ARGV[i]
  reweigh(ARGV[i], tonumber(ARGV[i + 1]))
  set_or_clear('rate:' .. ARGV[i], ARGV[i + 2])
end
weights_known = {}

redis.call('HSET', meta, 'version', version, 'accounts', cmsgpack.pack(names))
redis.call('HSET', meta, 'max_concurrent', max_concurrent, 'lease_ttl', lease_ttl)
redis.call('HSET', meta, 'max_leases', max_leases, 'dedupe_ttl', dedupe_ttl)
set_or_clear('rate', rate)
set_or_clear('tokens', tokens)

for _, account in ipairs(redis.call('ZRANGE', refill, 0, -1)) do
  redis.call('ZREM', refill, account)
  enter(account, head(account))
end
save_lane()
load_lane()
wake(takers())
return 1
