-- Parks calls, each once, and wakes one idle worker. The whole batch is atomic, and it is checked
-- before the first write: an odd number in the middle would leave calls that are in no queue.
--
-- KEYS: calls queue ring tags times leases index idle settled meta
-- ARGV: channel tries lane_name ...
--   of each call: id, quoted task id, task, account, caller, priority, cost, due_ms (0 = at once),
--   remember (0 or 1), redelivery_ms, envelope
-- USES: fair moves
-- RETURNS: of each call 'parked' and how many waited before it, 'delayed' and when it is due,
--   or 'duplicate' and its state
-- COST: O(calls log n)

local FIELDS = 11

local function is_between(text, least, most)
  local number = tonumber(text)
  return number and number >= least and number <= most
end

for i = rest, #ARGV, FIELDS do
  local fits = is_between(ARGV[i + 5], -1000, 1000) and is_between(ARGV[i + 6], 1, 1e9)
  fits = fits and is_between(ARGV[i + 7], 0, 2 ^ 52) and is_between(ARGV[i + 9], 0, 2 ^ 52)
  if not fits then
    return redis.error_reply('ERR celery_lanes: odd priority, cost or time in call ' .. ARGV[i])
  end
end

load_lane()

local function state_of(id, is_remembered)
  local r = record_of(id)
  if r then return r.state end
  local at = is_remembered and redis.call('ZSCORE', settled, id)
  if at and tonumber(at) > now then return 'settled' end
end

local function enter_call(i)
  lane.seq = lane.seq + 1
  local r = {
    id = ARGV[i], task_id = ARGV[i + 1], task = ARGV[i + 2], account = ARGV[i + 3],
    caller = ARGV[i + 4], priority = tonumber(ARGV[i + 5]), cost = tonumber(ARGV[i + 6]),
    seq = lane.seq, since = now, envelope = ARGV[i + 10],
  }
  if ARGV[i + 9] ~= '0' then r.redelivery = tonumber(ARGV[i + 9]) end
  redis.call('ZADD', index, 0, r.task_id .. ':' .. r.id)
  return r
end

local verdicts, is_worth_waking = {}, false
for i = rest, #ARGV, FIELDS do
  local state, due = state_of(ARGV[i], ARGV[i + 8] == '1'), tonumber(ARGV[i + 7])
  local kind, value = 'duplicate', state
  if not state and due > now then
    local sooner = redis.call('ZCOUNT', times, '(0', due)
    delay(enter_call(i), due)
    kind, value, is_worth_waking = 'delayed', due, is_worth_waking or sooner == 0
  elseif not state then
    kind, value, is_worth_waking = 'parked', redis.call('ZCARD', queue), true
    park(enter_call(i))
  end
  verdicts[#verdicts + 1] = kind
  verdicts[#verdicts + 1] = value
end
save_lane()
if is_worth_waking and free_slots() > 0 then wake(1) end
return verdicts
