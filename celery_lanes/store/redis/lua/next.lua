-- Ends attempts, then gives a worker calls to start and results to write. All of it is atomic.
--
-- FLAGS: allow-oom
-- KEYS: calls queue ring tags marks refill delayed leases victims closing idle workers holders settled meta
-- ARGV: channel tries lane_name worker request token wanted closings ...
--   request: number of this request, from 1; a repeated one gets the same answer again, a lower
--   one nothing. token: names the leases. wanted: calls to start; closings: results to write.
--   Then of each release its six words, see release. What is moved by them is handed back besides
--   the closings: its worker can finish the move at once.
-- USES: ring fair tickets moves adapting releases buckets grants preemption
-- RETURNS: one string: ms until something is due or -1, a newline, the grants as told_grant tells
--   them; if there are results to write or calls to stop, {that string, what told_closing tells...,
--   {call, token}...}; '' without rules
-- COST: O((releases + grants) log n)

-- Every 16th request forgets what is old, and each that adds more than 12 things to forget.
local FORGET_EVERY, FORGET_SOON, FORGET_LEAST, FORGET_MOST = 16, 12, 200, 500

delete_first()
local reply_field = 'reply:' .. worker
local packed = load_lane(reply_field)
local last = packed and cmsgpack.unpack(packed) or { request = 0, grants = {}, closings = {} }
request, wanted, closings = tonumber(request), tonumber(wanted), tonumber(closings)
tick()

local ended, moved = 0, {}
for i = rest, #ARGV, 6 do
  ended = ended + release(unpack(ARGV, i, i + 5))
  if ARGV[i + 2] == 'moved' then moved[#moved + 1] = ARGV[i] end
end
if #ARGV >= rest then
  count_ended(ended)
  settle_down()
end
if not last.seen or math.abs(now - last.seen) >= 1000 then
  redis.call('ZADD', workers, now, worker)
  last.seen = now
end
if not rules.max_concurrent then
  save_lane()
  return ''
end

local reply, due, blocked_until = last, nil, nil
local grants_out, closings_out = {}, {}
local free, unheld = nil, redis.call('ZCOUNT', closing, 0, 0)
if request <= last.request then
  due = first_due()
  serve_tickets()
  free = free_slots()
  if request < last.request then
    reply, wanted = { grants = {}, closings = {} }, 0
  else
    grants_out = told_again(last.grants, 'running', last.token, told_grant)
    closings_out = told_again(last.closings, 'closing', last.token, told_closing)
    blocked_until = last.blocked_until
  end
else
  due = promote()
  local turnover = (#ARGV - rest + 1) / 6 + wanted
  if request % FORGET_EVERY == 0 or turnover > FORGET_SOON then
    local limit = math.min(FORGET_MOST, math.max(FORGET_LEAST, 2 * turnover))
    forget_tags(limit)
    trim_settled(limit)
  end
  reply = { request = request, token = token, seen = last.seen, grants = {}, closings = {} }
  local is_cut
  if unheld > 0 then reply.closings, closings_out, is_cut = hand_out(worker, token, closings, moved) end
  reply.grants, grants_out, free, blocked_until = grant(worker, token, wanted, free_slots())
  if is_cut then blocked_until = now end
  unheld = unheld - #closings_out
end
local room_at, marked = preempt(), marked_of(worker)
local is_idle = #reply.grants < wanted
local says_if_idle = reply.request and wanted > 0

-- A request for no calls leaves a worker as idle as it was.
-- Wake somebody else if there is more; never so that two idle workers wake each other for ever.
if last.idle and says_if_idle then redis.call('ZREM', idle, worker) end
local is_grant_left = free > 0 and not is_idle and not blocked_until and redis.call('ZCARD', ring) > 0
if unheld > 0 and (#reply.closings > 0 or not is_idle) or is_grant_left then wake(1) end
if is_idle then
  redis.call('ZADD', idle, now, worker)
elseif lane.tickets and wanted > 0 then
  note_coming()
end
if reply.request then
  reply.blocked_until = blocked_until
  reply.idle = is_idle or last.idle and not says_if_idle
  save_lane(reply_field, cmsgpack.pack(reply))
else
  save_lane()
end

local told = string.format('%d\n', due_in_ms(due, blocked_until, room_at)) .. table.concat(grants_out)
for _, found in ipairs(marked) do closings_out[#closings_out + 1] = found end
return #closings_out == 0 and told or { told, unpack(closings_out) }
