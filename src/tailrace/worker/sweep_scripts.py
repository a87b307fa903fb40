"""The scripts of the sweep. Each looks again at what it is about to change: between a look and a heal the job goes on."""

from typing import Final

from tailrace.joblog import Script
from tailrace.joblog.lua import PREAMBLE
from tailrace.queue import WAKE_LUA

#: KEYS open; ARGV 1 how many, 2 ms until their next check. Taking and moving on in one script: of many workers that sweep,
#: each job is checked by one, and if that one dies, by another after the pause.
TAKE_DUE: Final = Script(
    """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now), 'LIMIT', 0, ARGV[1])
for _, id in ipairs(due) do
  redis.call('ZADD', KEYS[1], 'XX', string.format('%.0f', now + tonumber(ARGV[2])), id)
end
return {now, due}
""",
    allow_oom=True,
)

#: KEYS log, open, queue, in-progress, payload, retry; ARGV 1 job id, 2 queued id. Forgets a job whose log is over: out
#: of the queue, unless somebody holds it; out of the index only if no log is left, or '1' in ARGV 3. Not if the log is open
#: (again): what was read a moment ago may be what the server has lost since.
LEAVE: Final = Script(
    PREAMBLE
    + """
if redis.call('EXISTS', log) == 1 then
  if not sealed() then return 0 end
  if ARGV[3] == '1' then redis.call('ZREM', KEYS[2], ARGV[1]) end
else
  redis.call('ZREM', KEYS[2], ARGV[1])
end
if redis.call('EXISTS', KEYS[4]) == 0 then
  redis.call('ZREM', KEYS[3], ARGV[2])
  redis.call('DEL', KEYS[5], KEYS[6])
end
return 1
""",
    allow_oom=True,
)

#: KEYS queue, in-progress, wake; ARGV 1 queued id, 2 the longest that anything waits in order. 1 if it was brought forward.
BRING_FORWARD: Final = Script(
    WAKE_LUA
    + """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local score = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or '')
if not score or score <= now + tonumber(ARGV[2]) then return 0 end
redis.call('DEL', KEYS[2])
redis.call('ZADD', KEYS[1], 'XX', string.format('%.0f', now), ARGV[1])
wake_up(KEYS[3])
return 1
"""
)

#: KEYS log, open, queue; ARGV 1 job id, 2 next check at. An open job that the index has lost is put back into it.
REOPEN: Final = Script(
    PREAMBLE
    + """
if redis.call('EXISTS', log) == 0 or sealed() or redis.call('ZSCORE', KEYS[2], ARGV[1]) then return 0 end
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
live_longer(KEYS[2], redis.call('PTTL', log))
return 1
"""
)
