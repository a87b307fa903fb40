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

#: KEYS handed; ARGV 1 an entry, 2 its next check as TAKE_DUE has set it. Not one that was told again meanwhile.
LOOKED_AT: Final = Script(
    """
if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or '') ~= tonumber(ARGV[2]) then return 0 end
return redis.call('ZREM', KEYS[1], ARGV[1])
""",
    allow_oom=True,
)

_LEAVE: Final = """
local function over()
  if redis.call('EXISTS', log) == 0 then return 2 end
  return sealed() and 1 or 0
end
local function forget(over, deleted, open, queue, in_progress, payload, retry)
  if over == 2 or deleted == '1' then redis.call('ZREM', open, ARGV[1]) end
  if redis.call('EXISTS', in_progress) == 0 then
    redis.call('ZREM', queue, ARGV[2])
    redis.call('DEL', payload, retry)
  end
end
"""

#: KEYS log, open, queue, in-progress, payload, retry; ARGV 1 job id, 2 queued id. Forgets a job whose log is over: out
#: of the queue, unless somebody holds it; out of the index only if no log is left, or '1' in ARGV 3. Not if the log is open
#: (again): what was read a moment ago may be what the server has lost since.
LEAVE: Final = Script(
    PREAMBLE
    + _LEAVE
    + """
local over = over()
if over > 0 then forget(over, ARGV[3], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]) end
return over
""",
    allow_oom=True,
)

#: The same in two steps, where the queue has a server of its own. KEYS log. Answers 0 for an open one, 1 if it is over, 2 if
#: there is none.
OVER: Final = Script(PREAMBLE + _LEAVE + "return over()")

#: KEYS open, queue, in-progress, payload, retry, handed; ARGV as LEAVE's, 4 what OVER answered, 5 as what the job is looked at
#: once more, 6 after how many ms. What OVER saw may be no more: a producer that had hung has stored the job since, or the log's
#: server has lost that it was deleted.
FORGET: Final = Script(
    PREAMBLE
    + _LEAVE
    + """
local known = redis.call('ZSCORE', KEYS[1], ARGV[1])
forget(tonumber(ARGV[4]), ARGV[3], KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5])
if known and not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  redis.call('ZADD', KEYS[6], math.floor(now_us() / 1000) + tonumber(ARGV[6]), ARGV[5])
  live_longer(KEYS[6], 60 * tonumber(ARGV[6]))
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

#: The same in two steps. KEYS log. For how many ms one lives with which something is to be done: it is open, or nobody has made
#: the snapshot of its end, which may have been written in place of one that was lost; 0 if there is nothing. Of a log whose
#: beginning was trimmed there is no snapshot.
UNSETTLED_FOR: Final = Script(
    PREAMBLE
    + """
if redis.call('EXISTS', log) == 0 then return 0 end
if sealed() and (redis.call('XLEN', log) == 0 or not job()) then return 0 end
return math.max(0, redis.call('PTTL', log))
"""
)

#: KEYS open; ARGV 1 job id, 2 next check at, 3 for how many ms its log lives.
INDEX: Final = Script(
    PREAMBLE
    + """
local added = redis.call('ZADD', KEYS[1], 'NX', ARGV[2], ARGV[1])
live_longer(KEYS[1], tonumber(ARGV[3]))
return added
"""
)
