-- Extends exactly the named leases; takes back what the worker has not named for 5 s. Atomic.
-- A lease's expiry tells when it was last named: those named in this call are fresh.
--
-- FLAGS: allow-oom
-- KEYS: calls queue ring tags marks refill delayed leases victims closing idle workers holders meta
-- ARGV: channel tries lane_name worker is_last ...
--   is_last: '0' if more names follow in another call; then of each lease: call, token.
--   A holder also names its tickets that wait, without a token.
-- USES: ring fair tickets moves buckets grants
-- RETURNS: {how many were put back, names of the calls whose lease is gone...}
-- COST: O(named log n + leases that nobody has named for 5 s), 5,000 looked at, 500 put back

local UNNAMED_AFTER_MS, PAGE = 5000, 500

delete_first()
load_lane()
tick()
if redis.call('ZSCORE', holders, worker) then
  hear_of(worker)
else
  redis.call('ZADD', workers, now, worker)
end

local function extend(id, token)
  local r = record_of(id)
  local is_ticket = r and token == '' and r.holder == worker
  if is_ticket and r.state == 'waiting' then return true end
  if not is_ticket and (not r or r.worker ~= worker or r.token ~= token) then return false end
  local held = (r.state == 'closing' or r.established) and closing or leases
  redis.call('ZADD', held, now - lane.frozen + rules.lease_ttl, id)
  return true
end

local answer = { 0 }
for i = rest, #ARGV, 2 do
  if not extend(ARGV[i], ARGV[i + 1]) then answer[#answer + 1] = ARGV[i] end
end

local function take_back(r)
  if r.state == 'closing' then return let_go(r) end
  unlease(r)
  put_back(r)
end

-- Finds this worker's leases among those that nobody has named, page by page.
local function unnamed(held, from)
  local named_until = now - lane.frozen - UNNAMED_AFTER_MS + rules.lease_ttl - 1
  local mine = {}
  for offset = 0, 9 * PAGE, PAGE do
    local page = redis.call('ZRANGEBYSCORE', held, from, named_until, 'LIMIT', offset, PAGE)
    for _, id in ipairs(page) do
      local r = record_of(id)
      if r.worker == worker then mine[#mine + 1] = r end
    end
    if #page < PAGE or #mine >= PAGE then break end
  end
  return mine
end

if is_last == '1' then
  for _, found in ipairs({ unnamed(leases, '-inf'), unnamed(closing, '(0') }) do
    for _, r in ipairs(found) do
      if answer[1] == PAGE then break end
      take_back(r)
      answer[1] = answer[1] + 1
    end
  end
end
settle_down()
if answer[1] > 0 then serve_tickets() end
save_lane()
wake(answer[1])
return answer
