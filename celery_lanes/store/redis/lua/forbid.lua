-- Forbids a task id of which nothing is here: what a broker brings of it will be closed as it comes.
--
-- FLAGS: allow-oom
-- KEYS: calls forbidden meta
-- ARGV: task_id for_ms
-- RETURNS: 1, or 0 if a call of this task id is here
-- COST: O(log n)

delete_first()
load_lane()
if redis.call('HEXISTS', calls, 't:' .. task_id) == 1 then return 0 end

local past = redis.call('ZRANGEBYSCORE', forbidden, '-inf', now, 'LIMIT', 0, 100)
if #past > 0 then redis.call('ZREM', forbidden, unpack(past)) end
redis.call('ZADD', forbidden, now + for_ms, task_id)
lane.forbids = math.max(lane.forbids or 0, now + for_ms)
redis.call('PEXPIRE', forbidden, lane.forbids - now)
save_lane()
return 1
