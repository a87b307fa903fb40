"""The scripts of the scrub: who walks through the logs, after what, and what a log says of itself."""

from typing import Final

from tailrace.joblog import Script
from tailrace.joblog.lua import PREAMBLE

#: Locals: the server's clock, and which history of data this server has. A process has a `run_id` of its own, and a replica
#: that takes over begins a new `master_replid`, also one that was primary before. '' where the server does not tell.
#: Source: redis.io/docs/latest/commands/info.
_HERE: Final = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local function told(section, name)
  local info = redis.pcall('INFO', section)
  return type(info) == 'string' and string.match(info, name .. ':(%w+)') or ''
end
local here = told('server', 'run_id') .. told('replication', 'master_replid')
"""

#: KEYS scrub, then the streams of ended jobs; ARGV 1 who asks, 2 for how many ms its walk is its own, 3 ttl ms, 4 '1' if it
#: has seen this key before, 5 how many ms before what is certainly there to begin, 6 after how many ms to walk again.
#:
#: Every worker asks, every sweep, and with that notes the time (`seen`): of what a server has lost only the end is missing, so
#: what was written before the last `seen` that is left is there. `since`: when this history was first met; `from`: jobs
#: submitted since then may have been handed off without a trace. Answers {'idle'}, or {'walk', history, since, number, from}.
WATCH: Final = Script(
    _HERE
    + """
local function get(field) return redis.call('HGET', KEYS[1], field) end
local function num(field) return tonumber(get(field) or '') or 0 end
local function text(number) return string.format('%.0f', number) end
local known = get('history')
if known ~= here then
  local from
  if known then
    from = num('seen') - tonumber(ARGV[5])
    -- The walk after an earlier change is not through, or its second one is not.
    if num('walks') == 0 then from = math.min(from, num('from')) end
    if num('walks') == 1 then from = math.min(from, num('since') - tonumber(ARGV[5])) end
  else
    local told = false
    for i = 2, #KEYS do told = told or redis.call('EXISTS', KEYS[i]) == 1 end
    -- Nobody has been here yet, or there is nothing left.
    from = (told and ARGV[4] ~= '1') and now or 0
  end
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'history', here, 'since', text(now), 'from', text(from), 'walks', '0')
end
redis.call('HSET', KEYS[1], 'seen', text(now))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local walks, since = num('walks'), num('since')
if walks > 1 or (walks == 1 and now < since + tonumber(ARGV[6])) then return {'idle'} end
if get('walker') ~= ARGV[1] and now < num('until') then return {'idle'} end
redis.call('HSET', KEYS[1], 'walker', ARGV[1], 'until', text(now + tonumber(ARGV[2])))
local from = num('from')
if walks == 1 then from = math.max(from, since - tonumber(ARGV[5])) end
return {'walk', here, text(since), walks + 1, text(from)}
""",
    allow_oom=True,
)

#: KEYS scrub; ARGV 1 history, 2 since when, 3 which walk is through. Not if the server has changed meanwhile.
WALKED: Final = Script(
    """
local met = redis.call('HMGET', KEYS[1], 'history', 'since')
if met[1] ~= ARGV[1] or met[2] ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'walks', ARGV[3])
redis.call('HDEL', KEYS[1], 'walker', 'until')
return 1
""",
    allow_oom=True,
)

#: KEYS log, snapshot; ARGV 1 how many bytes of a snapshot to answer. 'gone', 'open', 'begun', 'ended' (nobody has settled it),
#: 'settled' with the beginning of the snapshot ('' if there is none); and for how many ms the log lives.
STATE: Final = Script(
    PREAMBLE
    + """
if redis.call('EXISTS', log) == 0 then return {'gone', 0, ''} end
local ttl = math.max(0, redis.call('PTTL', log))
if not sealed() then return {top() == '0-1' and 'open' or 'begun', ttl, ''} end
if redis.call('XLEN', log) > 0 then return {'ended', ttl, ''} end
return {'settled', ttl, redis.call('GETRANGE', KEYS[2], 0, tonumber(ARGV[1]) - 1)}
"""
)
