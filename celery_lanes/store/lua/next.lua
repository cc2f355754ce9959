-- Ends attempts, then gives a worker calls to start and results to write. All of it is atomic.
--
-- KEYS: calls queue ring tags refill times leases closing index idle workers settled meta
-- ARGV: channel tries lane_name worker request releases closings ...
--   request: number of this request, from 1; a repeated one gets the same answer again, a lower
--   one nothing. releases: how many; of each call, token, outcome, real cost ('' = unknown).
--   closings: how many tokens for results to write come next; all others are for calls to start.
-- USES: fair moves releases grants
-- RETURNS: {{call, token, caller, attempt, wait_ms, envelope}...},
--   {{call, token, reason, envelope}...}, ms until something is due or -1; {} without rules
-- COST: O((releases + grants) log n)

delete_first()
load_lane()
tick()
request = tonumber(request)

local last_release = rest + 4 * releases - 1
for i = rest, last_release, 4 do
  release(ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3]))
end
count_ended()
settle_down()
redis.call('ZADD', workers, now, worker)
if not rules.max_concurrent then
  save_lane()
  return {}
end
if tonumber(releases) > 0 then trim_settled(2 * releases) end

local closing_tokens, tokens = {}, {}
for i = last_release + 1, #ARGV do
  local list = i - last_release <= tonumber(closings) and closing_tokens or tokens
  list[#list + 1] = ARGV[i]
end

local packed = redis.call('HGET', meta, 'reply:' .. worker)
local last = packed and cmsgpack.unpack(packed) or { 0, {}, {} }
local reply, wanted, blocked_until = last, #tokens, nil
if request < last[1] then
  reply, wanted = { request, {}, {} }, 0
elseif request > last[1] then
  promote()
  forget_tags()
  local handed = hand_out(worker, closing_tokens)
  local granted
  granted, blocked_until = grant(worker, tokens)
  reply = { request, granted, handed }
  redis.call('HSET', meta, 'reply:' .. worker, cmsgpack.pack(reply))
end
save_lane()

-- Wake somebody else if there is more; never so that two idle workers wake each other for ever.
if request >= last[1] then redis.call('ZREM', idle, worker) end
local is_idle = #reply[2] < wanted
local is_closing_left = redis.call('ZCOUNT', closing, 0, 0) > 0
local is_grant_left = redis.call('ZCARD', ring) > 0 and free_slots() > 0
if is_closing_left and (#reply[3] > 0 or not is_idle) or is_grant_left and not is_idle and not blocked_until then
  wake(1)
end
if is_idle then redis.call('ZADD', idle, now, worker) end

local grants_out, closings_out = {}, {}
for _, pair in ipairs(reply[2]) do
  local r = record_of(pair[1])
  if r and r.state == 'running' and r.token == pair[2] then
    local envelope = redis.call('HGET', calls, 'e:' .. r.id)
    grants_out[#grants_out + 1] =
      { r.id, r.token, r.caller, r.attempts, math.max(0, r.granted - r.since), envelope }
  end
end
for _, pair in ipairs(reply[3]) do
  local r = record_of(pair[1])
  if r and r.state == 'closing' and r.token == pair[2] then
    closings_out[#closings_out + 1] = { r.id, r.token, r.reason, redis.call('HGET', calls, 'e:' .. r.id) }
  end
end

local due = redis.call('ZRANGEBYSCORE', times, '(0', '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
local full = rules.has_accounts and redis.call('ZRANGE', refill, 0, 0, 'WITHSCORES')[2]
local soonest = math.min(tonumber(due or math.huge), tonumber(full or math.huge), blocked_until or math.huge)
if soonest == math.huge then return { grants_out, closings_out, -1 } end
return { grants_out, closings_out, math.max(1, math.ceil(soonest - now)) }
