-- Parks calls, each once, and wakes one idle worker. The whole batch is atomic, and it is checked
-- before the first write: an odd number in the middle would leave calls that are in no queue.
--
-- KEYS: calls queue ring tags marks refill delayed leases victims workers closing idle holders settled forbidden meta
-- ARGV: channel tries lane_name scope max_wait tells ...
--   scope: 'caller' or 'lane', whose calls a priority orders; another one than before holds from when
--   the lane is empty. max_wait: refuse a call that would wait longer, in ms; '' = none. tells: 1 =
--   say where the calls stand. Of each call: id, quoted task id, task, account, caller, priority, cost,
--   due_ms (0 = at once), flags (1: remember, 2: preemptible, 4: it has waited), redelivery_ms, arrival, holder ('' = a
--   worker runs it), envelope
-- USES: ring fair tickets moves buckets grants preemption standing
-- RETURNS: two words of each call, in one string: 'parked' and how many waited before it,
--   'delayed' and when it is due, 'cancelled' (it was forbidden) and 0, 'busy' (refused) and
--   'ahead:wait in ms', or 'duplicate' and its state. If it tells: {this string, {each call's facts}},
--   see standing_of
-- COST: O(calls log n); with max_wait, and again if it tells, of each call what position costs

local FIELDS = 13

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
local are_many = scope == 'lane' or nil
if are_many ~= lane.levels and settle_down() then
  lane.levels, lane.rests, lane.passed, lane.turn, clocks = are_many, 0, 0, 0, {}
end

local TASK_IDS = 500 -- calls of one task id that it leads to

local function has_settled(name)
  local at = redis.call('ZSCORE', settled, name)
  return at and tonumber(at) > now
end

-- Gives the state of a call that is here or remembered, and which calls the task id leads to.
local function state_of(id, task_id, is_remembered, arrival)
  local record, ids = unpack(redis.call('HMGET', calls, 'r:' .. id, 't:' .. task_id))
  if record then return cmsgpack.unpack(record).state end
  if is_remembered and has_settled(id) or arrival ~= '' and has_settled(arrival) then return 'settled' end
  return nil, ids and cmsgpack.unpack(ids) or {}
end

local function is_forbidden(r)
  if not r.redelivery or (lane.forbids or 0) <= now then return false end
  return tonumber(redis.call('ZSCORE', forbidden, r.task_id) or 0) > now
end

local function new_call(i)
  lane.seq = lane.seq + 1
  local r = {
    id = ARGV[i], task_id = ARGV[i + 1], task = ARGV[i + 2], account = ARGV[i + 3],
    caller = ARGV[i + 4], priority = tonumber(ARGV[i + 5]), cost = tonumber(ARGV[i + 6]),
    seq = lane.seq, since = now,
  }
  if ARGV[i + 8] % 4 >= 2 then r.preemptible = true end
  if ARGV[i + 8] % 8 >= 4 then r.waited = true end
  if ARGV[i + 9] ~= '0' then r.redelivery = tonumber(ARGV[i + 9]) end
  if ARGV[i + 10] ~= '' then r.arrival = ARGV[i + 10] end
  if ARGV[i + 11] ~= '' then r.holder = ARGV[i + 11] end
  return r
end

local function keep_new(r, envelope, ids)
  if #ids >= TASK_IDS then table.remove(ids, 1) end
  ids[#ids + 1] = r.id
  local record = cmsgpack.pack(r)
  redis.call('HSET', calls, 'r:' .. r.id, record, 'e:' .. r.id, envelope, 't:' .. r.task_id, cmsgpack.pack(ids))
end

max_wait = tonumber(max_wait)

-- Whether a ticket that is admitted now finds a slot that those before it leave empty.
local function will_pass(r)
  if not r.holder or free_slots() <= (lane.tickets or 0) or not are_passed_over() then return false end
  local rank = rank_of(r)
  if head(r.account, rank) then return false end
  return count_standing(rank, begins_at(r.account, rank), r.seq) < PASSED_OVER
end

local function refusal(r)
  local ahead, wait = wait_of(r)
  if wait and will_pass(r) then
    ahead, wait = 0, math.max(buckets_pass_in(r, 0, 0, 0))
  end
  return wait and wait > max_wait and string.format('busy %d:%d', ahead, wait)
end

local verdicts, standings, is_worth_waking, is_closing, is_ticket = {}, {}, false, false, false
for i = rest, #ARGV, FIELDS do
  local state, ids = state_of(ARGV[i], ARGV[i + 1], ARGV[i + 8] % 2 == 1, ARGV[i + 10])
  local verdict, due = state and 'duplicate ' .. state, tonumber(ARGV[i + 7])
  if not state then
    local r = new_call(i)
    if is_forbidden(r) then
      verdict, is_closing = 'cancelled 0', true
      to_closing(r, 'cancelled')
    elseif due > now then
      verdict = string.format('delayed %.0f', due)
      is_worth_waking = is_worth_waking or redis.call('ZCOUNT', delayed, '-inf', due) == 0
      begin_delay(r, due)
    else
      verdict = max_wait and refusal(r)
    end
    if not verdict then
      verdict = 'parked ' .. redis.call('ZCARD', queue)
      begin_to_wait(r)
      if r.holder then
        tick()
        hear_of(r.holder)
        is_ticket = true
      else
        is_worth_waking = true
      end
    end
    if r.state then keep_new(r, ARGV[i + 12], ids) end
  end
  verdicts[#verdicts + 1] = verdict
  if tells == '1' then standings[#standings + 1] = standing_of(ARGV[i]) end
end
if is_ticket then serve_tickets() end
if is_worth_waking or is_ticket then preempt() end
save_lane()
if is_closing or is_worth_waking and free_slots() > 0 then wake(1) end
local told = table.concat(verdicts, ' ')
if tells == '1' then return { told, standings } end
return told
