"""The worker's side of the queue in Lua: claim, renew, settle. All by server time.

A lease is two things that one script always writes together: the id's score in the queue (when the lease ends, so that
nobody looks at it before) and the in-progress key (the token of whoever holds it, with the same time to live). A holder
is also recognised by the score alone, once its key has run out, as long as it is exactly the deadline of its last
renewal: then nobody has claimed or handed back the job since, and a worker that comes back from an outage or a pause
keeps its work.

Wrong types are what somebody planted: they must not stop the queue, so reads go through pcall.
"""

from typing import Final

from tailrace.queue.enqueue import NOW_LUA, WAKE_LUA
from tailrace.queue.names import IN_PROGRESS_PREFIX, JOB_PREFIX, RETRY_KEPT_S, RETRY_PREFIX
from tailrace.queue.serializer import MAX_PAYLOAD_BYTES

_OWNS_LUA: Final = """
local function owns(queue, in_progress, id, token, deadline)
  local score = redis.call('ZSCORE', queue, id)
  if not score then
    return false
  end
  local owner = redis.pcall('GET', in_progress)
  return owner == token or (owner == false and tonumber(score) == tonumber(deadline))
end
local function ms(number)
  return string.format('%.0f', number)
end
"""

CLAIM_LUA: Final = (
    NOW_LUA
    + f"local in_progress_prefix, job_prefix = '{IN_PROGRESS_PREFIX}', '{JOB_PREFIX}'\n"
    + f"local retry_prefix, retry_s = '{RETRY_PREFIX}', {RETRY_KEPT_S}\n"
    + f"local payload_top = {MAX_PAYLOAD_BYTES}\n"
    + """
local lease, limit, token, prefix = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
local now = server_ms()
local deadline = now + lease
local taken, foreign, expired, count = {}, {}, {}, 0

local function ours(id)
  local job = string.sub(id, #prefix + 1)
  return string.sub(id, 1, #prefix) == prefix and #job <= 128 and string.match(job, '^[%w_-]+$')
end

local function take(queue, number)
  local due = redis.call('ZRANGEBYSCORE', queue, '-inf', now, 'WITHSCORES', 'LIMIT', 0, limit - count)
  for i = 1, #due, 2 do
    local id = due[i]
    if not ours(id) then
      -- Its keys may be another deployment's: leave them.
      redis.call('ZREM', queue, id)
      foreign[#foreign + 1] = id
    else
      -- One byte more than a payload may have tells a huge one, without fetching it.
      local payload = redis.pcall('GETRANGE', job_prefix .. id, 0, payload_top)
      if payload == '' then
        redis.call('ZREM', queue, id)
        expired[#expired + 1] = id
      else
        if type(payload) ~= 'string' then
          payload = ''
        end
        local in_progress = in_progress_prefix .. id
        if redis.call('SET', in_progress, token, 'NX', 'PX', lease) then
          redis.call('ZADD', queue, 'XX', string.format('%.0f', deadline), id)
          local claims = redis.pcall('INCR', retry_prefix .. id)
          redis.call('EXPIRE', retry_prefix .. id, retry_s)
          taken[#taken + 1] = id
          taken[#taken + 1] = due[i + 1]
          taken[#taken + 1] = payload
          taken[#taken + 1] = type(claims) == 'number' and claims or 1
          taken[#taken + 1] = number
          count = count + 1
        else
          -- Somebody holds it, but its score was overwritten (or the key was planted): look again when the key runs out.
          local left = redis.call('PTTL', in_progress)
          if left < 0 or left > lease then
            left = lease
            redis.call('PEXPIRE', in_progress, left)
          end
          redis.call('ZADD', queue, 'XX', string.format('%.0f', now + left + 1), id)
        end
      end
    end
  end
end

local wait, length = -1, 0
for at = 1, #KEYS, 2 do
  local queue, wake = KEYS[at], KEYS[at + 1]
  take(queue, (at - 1) / 2)
  length = length + redis.call('ZCARD', queue)
  local first = redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES')
  local score = tonumber(first[2] or '')
  local left = -1
  if score and score < 1e15 then
    left = math.max(0, math.ceil(score - now))
    wait = wait < 0 and left or math.min(wait, left)
  end
  if left ~= 0 then
    -- Nothing is due: every word that is still waiting is stale.
    redis.call('DEL', wake)
  end
end
return {wait, length, deadline, taken, foreign, expired}
"""
)
"""KEYS queue and wake of each queue that the worker serves. ARGV lease in ms, limit, token, the namespace with its colon.

Takes up to `limit` jobs that are due: those of the first queue before those of the second, in each the oldest first. Answers:
ms until the next is due (0: look again, -1: none waits), jobs in the queues, deadline of the leases; id, score, payload, claims
so far and number of the queue, from 0, of each job taken (an impossible payload is empty or too long); ids that were dropped
because they are not this namespace's; ids that were dropped because their payload expired.
"""

RENEW_LUA: Final = (
    NOW_LUA
    + _OWNS_LUA
    + f"local in_progress_prefix = '{IN_PROGRESS_PREFIX}'\n"
    + """
local queue, lease = KEYS[1], tonumber(ARGV[1])
local deadline = ms(server_ms() + lease)
local lost = {}
for i = 2, #ARGV, 3 do
  local id, token = ARGV[i], ARGV[i + 1]
  local in_progress = in_progress_prefix .. id
  if owns(queue, in_progress, id, token, ARGV[i + 2]) then
    redis.call('SET', in_progress, token, 'PX', ms(lease))
    redis.call('ZADD', queue, 'XX', deadline, id)
  else
    lost[#lost + 1] = id
  end
end
return {tonumber(deadline), lost}
"""
)
"""KEYS queue. ARGV lease in ms, then id, token and last known deadline of each lease. Answers the new deadline of all that
are still held, and the ids of those that are lost."""

SETTLE_LUA: Final = (
    NOW_LUA
    + WAKE_LUA
    + _OWNS_LUA
    + """
local queue, wake, in_progress, payload_key, retry_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id, token, deadline, delay = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
if not owns(queue, in_progress, id, token, deadline) then
  return 0
end
if delay < 0 then
  redis.call('ZREM', queue, id)
  redis.call('DEL', in_progress, payload_key, retry_key)
else
  redis.call('DEL', in_progress)
  redis.call('ZADD', queue, 'XX', ms(server_ms() + delay), id)
  if delay < soon_ms then
    wake_up(wake)
  end
end
return 1
"""
)
"""KEYS queue, wake, in-progress, payload, retry. ARGV id, token, last known deadline, delay in ms or -1.

The end of a claim, only by whoever holds the lease (else 0, and nothing is touched): -1 takes the job out of the queue,
otherwise it is handed back, to run again after the delay.
"""
