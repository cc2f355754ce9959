-- Deals with expired leases, unless the store was away: then it extends them all instead. Forgets
-- what is old. Atomic.
--
-- FLAGS: allow-oom
-- KEYS: calls queue ring tags marks refill delayed leases victims closing idle workers holders settled dead meta
-- ARGV: channel tries lane_name
-- USES: ring fair tickets moves buckets grants
-- RETURNS: {put back, moved to closing or forgotten (tickets), ms by which all leases were extended}
-- COST: O(log n + what it deals with), at most 500 of each kind

local AT_ONCE = 500
local FORGET_WORKER_MS, DEAD_LETTERS, DEAD_LETTER_MS = 600000, 1000, 7 * 86400000

delete_first()
load_lane()

local function forget_workers()
  local gone = redis.call('ZRANGEBYSCORE', workers, '-inf', now - FORGET_WORKER_MS, 'LIMIT', 0, AT_ONCE)
  for _, name in ipairs(gone) do
    redis.call('ZREM', workers, name)
    redis.call('ZREM', idle, name)
    redis.call('HDEL', meta, 'reply:' .. name)
  end
end

-- By the lease clock, as they are heard of.
local function forget_holders()
  local before = now - lane.frozen - FORGET_WORKER_MS
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', holders, '-inf', before, 'LIMIT', 0, AT_ONCE)) do
    redis.call('ZREM', holders, name)
    redis.call('HDEL', meta, 'news:' .. name)
  end
end

local extended = tick()
if extended ~= 0 then
  save_lane()
  return { 0, 0, extended }
end

trim_settled(AT_ONCE)
forget_workers()
forget_holders()
redis.call('ZREMRANGEBYSCORE', dead, '-inf', now - DEAD_LETTER_MS)
redis.call('ZREMRANGEBYRANK', dead, 0, -DEAD_LETTERS - 1)

local function expired(key, from)
  return redis.call('ZRANGEBYSCORE', key, from, now - lane.frozen, 'LIMIT', 0, AT_ONCE)
end

local lapsed, unheld, waiting = {}, {}, 0
for _, id in ipairs(expired(leases, '-inf')) do lapsed[#lapsed + 1] = record_of(id) end
for _, id in ipairs(expired(closing, '(0')) do
  local r = record_of(id)
  local found = r.established and lapsed or unheld
  found[#found + 1] = r
end
for _, r in ipairs(lapsed) do unlease(r) end
for _, r in ipairs(lapsed) do
  if lose(r) then waiting = waiting + 1 end
end
for _, r in ipairs(unheld) do let_go(r) end

settle_down()
serve_tickets()
save_lane()
wake(#lapsed + #unheld)
return { waiting, #lapsed - waiting, 0 }
