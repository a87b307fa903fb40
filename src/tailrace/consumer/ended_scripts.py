"""The scripts of the hand-off, on the reading side. Each may be sent again when its answer was lost.

Time is the server's: how long an entry has been in somebody's hands is what Redis says. docs/handoff.md has the rules.
"""

from typing import Final

from tailrace.joblog import Script

#: A stream that a group waits at before any job has ended, or after all have expired.
WAITING_TTL_MS: Final = 3_600_000
#: How many a group's parked ones may be; the oldest go first.
PARKED_LIMIT: Final = 10_000
PARKED_TTL_MS: Final = 30 * 24 * 3_600_000

_PREAMBLE: Final = f"""
local stream, group, consumer = KEYS[1], ARGV[1], ARGV[2]
local function live(key, ttl_ms) if redis.call('PTTL', key) < ttl_ms then redis.call('PEXPIRE', key, ttl_ms) end end
-- What the group has in somebody's hands under this id: its holder, and how often it was handed out.
local function held(id)
  local pending = redis.pcall('XPENDING', stream, group, id, id, 1)
  if pending.err or not pending[1] then return nil, 0 end
  return pending[1][2], pending[1][4]
end
local function park(key, id, fields, deliveries, reason)
  local words = {{}}
  for i = 1, #fields, 2 do
    if fields[i] ~= 'for' then words[#words + 1] = fields[i]; words[#words + 1] = fields[i + 1] end
  end
  redis.call('XADD', key, 'MAXLEN', {PARKED_LIMIT}, '*', 'deliveries', deliveries, 'reason', reason, unpack(words))
  live(key, {PARKED_TTL_MS})
  redis.call('XACK', stream, group, id)
end
"""

#: KEYS stream, parked; ARGV 1 group, 2 consumer, 3 where a new group begins, 4 idle for at least ms, 5 handed out at most,
#: 6 how many, 7 reason, 8 forget consumers after ms.
#: Makes the group where there is none, takes over what nobody has acknowledged in time, parks what was handed out too
#: often, and forgets consumers that have left. Answers {id, deliveries, fields} of each that is taken, the job of each that
#: is parked, and the id of the stream's last entry.
TAKE_OVER: Final = Script(
    _PREAMBLE
    + f"""
local made = redis.pcall('XGROUP', 'CREATE', stream, group, ARGV[3], 'MKSTREAM')
if not (type(made) == 'table' and made.err) then live(stream, {WAITING_TTL_MS}) end
local taken, parked = {{}}, {{}}
for _, pending in ipairs(redis.call('XPENDING', stream, group, 'IDLE', ARGV[4], '-', '+', ARGV[6])) do
  local id, deliveries = pending[1], pending[4]
  local fields = redis.call('XRANGE', stream, id, id)[1]
  fields = fields and fields[2]
  if not fields then
    redis.call('XACK', stream, group, id)
  elseif deliveries >= tonumber(ARGV[5]) then
    park(KEYS[2], id, fields, deliveries, ARGV[7])
    parked[#parked + 1] = fields
  else
    redis.call('XCLAIM', stream, group, consumer, 0, id, 'RETRYCOUNT', deliveries + 1, 'JUSTID')
    taken[#taken + 1] = {{id, deliveries + 1, fields}}
  end
end
for _, other in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
  local told = {{}}
  for i = 1, #other, 2 do told[other[i]] = other[i + 1] end
  if told.pending == 0 and told.name ~= consumer and told.idle > tonumber(ARGV[8]) then
    redis.call('XGROUP', 'DELCONSUMER', stream, group, told.name)
  end
end
local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
return {{taken, parked, last and last[1] or '0-0'}}
""",
    allow_oom=True,
)

#: KEYS stream; ARGV 1 group, 2 consumer, 3 id, 4 '1' to count it as handed out once more. Keeps it in the consumer's hands
#: from now on. How often it was handed out; 0 if somebody else has it, or it is acknowledged.
HOLD: Final = Script(
    _PREAMBLE
    + """
local holder, deliveries = held(ARGV[3])
if holder ~= consumer then return 0 end
deliveries = deliveries + tonumber(ARGV[4])
redis.call('XCLAIM', stream, group, consumer, 0, ARGV[3], 'RETRYCOUNT', deliveries, 'JUSTID')
return deliveries
""",
    allow_oom=True,
)

#: KEYS stream; ARGV 1 group, 2 consumer, 3 idle ms, 4 by how much to count it back, 5 '1' if the consumer leaves, then ids.
#: Whoever looks next may take them over at once.
RELEASE: Final = Script(
    _PREAMBLE
    + """
for i = 6, #ARGV do
  local holder, deliveries = held(ARGV[i])
  if holder == consumer then
    redis.call('XCLAIM', stream, group, consumer, 0, ARGV[i], 'IDLE', ARGV[3],
      'RETRYCOUNT', math.max(0, deliveries - tonumber(ARGV[4])), 'JUSTID')
  end
end
if ARGV[5] == '1' then
  local holds = redis.pcall('XPENDING', stream, group, '-', '+', 1, consumer)
  if not holds.err and #holds == 0 then redis.pcall('XGROUP', 'DELCONSUMER', stream, group, consumer) end
end
return 1
""",
    allow_oom=True,
)

#: KEYS stream, parked; ARGV 1 group, 2 consumer, 3 id, 4 reason. 1 if it was still in anybody's hands.
PARK: Final = Script(
    _PREAMBLE
    + """
local holder, deliveries = held(ARGV[3])
local fields = holder and redis.call('XRANGE', stream, ARGV[3], ARGV[3])[1]
if not fields then return 0 end
park(KEYS[2], ARGV[3], fields[2], deliveries, ARGV[4])
return 1
""",
    allow_oom=True,
)

#: KEYS stream, parked; ARGV 1 group, 2 consumer, 3 id of the parked one. Other groups pass by an entry that says whom it is
#: for. 1 if it was there.
UNPARK: Final = Script(
    _PREAMBLE
    + f"""
local found = redis.call('XRANGE', KEYS[2], ARGV[3], ARGV[3])[1]
if not found then return 0 end
local words = {{}}
for i = 1, #found[2], 2 do
  local name = found[2][i]
  if name ~= 'deliveries' and name ~= 'reason' then words[#words + 1] = name; words[#words + 1] = found[2][i + 1] end
end
redis.call('XADD', stream, '*', 'for', group, unpack(words))
live(stream, {WAITING_TTL_MS})
redis.call('XDEL', KEYS[2], ARGV[3])
return 1
"""
)
