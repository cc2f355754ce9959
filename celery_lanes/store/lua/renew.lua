-- Extends exactly the named leases; takes back what the worker has not named for 5 s. Atomic.
-- A lease's expiry tells when it was last named: those named in this call are fresh.
--
-- KEYS: calls queue ring tags times leases closing index idle workers meta
-- ARGV: channel tries lane_name worker is_last ...
--   is_last: '0' if more names follow in another call; then of each lease: call, token
-- USES: fair moves
-- RETURNS: {how many were put back, names of the calls whose lease is gone...}
-- COST: O(named + leases of this worker), at most 500 put back

local UNNAMED_AFTER_MS = 5000

delete_first()
load_lane()
tick()
redis.call('ZADD', workers, now, worker)

local function extend(id, token)
  local r = record_of(id)
  if not r or r.worker ~= worker or r.token ~= token then return false end
  redis.call('ZADD', r.state == 'closing' and closing or leases, now - lane.frozen + rules.lease_ttl, id)
  return true
end

local answer = { 0 }
for i = rest, #ARGV, 2 do
  if not extend(ARGV[i], ARGV[i + 1]) then answer[#answer + 1] = ARGV[i] end
end

local function take_back(id)
  local r = record_of(id)
  if r.state == 'closing' then return let_go(r) end
  unlease(r)
  put_back(r)
end

local named_since = now - lane.frozen - UNNAMED_AFTER_MS + rules.lease_ttl
local mine = 'w:' .. worker .. ':'
local held = is_last == '1'
  and redis.call('ZRANGEBYLEX', index, '[' .. mine, '(w:' .. worker .. ';', 'LIMIT', 0, 5000) or {}
for _, member in ipairs(held) do
  local id = string.sub(member, #mine + 1)
  local expiry = redis.call('ZSCORE', leases, id) or redis.call('ZSCORE', closing, id)
  if tonumber(expiry) < named_since and answer[1] < 500 then
    take_back(id)
    answer[1] = answer[1] + 1
  end
end

settle_down()
save_lane()
wake(answer[1])
return answer
