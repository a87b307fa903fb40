"""The Lua scripts of the log protocol. docs/architecture.md explains the rules, tests/joblog breaks each once.

Every script is safe to send again when its answer was lost. Time is the server's. JSON that a caller wrote is never
decoded and encoded again (Lua would turn [] into {}): fields are put in front of it as text. The top of a log is read
by XREVRANGE, never XINFO, which copies the first entry. No cjson on values that may be large.
"""

from typing import Final

from tailrace.schemas import END, FIRST

PREAMBLE: Final = f"""
local log = KEYS[1]
local function top()
  local entry = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  if entry then return entry[1], entry[2][1], entry[2][2] end
end
local function sealed()
  local id = top()
  if id then return id == '{END}' end
  -- An emptied stream is the tombstone of a snapshot or of a deleted job: it still refuses every id.
  return redis.call('EXISTS', log) == 1
end
local function job()
  local entry = redis.call('XRANGE', log, '{FIRST}', '{FIRST}')[1]
  return entry and cjson.decode(entry[2][2])
end
local function of_incarnation(expected)
  local first = job()
  return first and first.incarnation == expected
end
local function now_us()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end
local function ms(us) return string.format('%.0f', math.floor(us / 1000)) end
local function line(id, field, value) return id .. ' ' .. field .. ' ' .. #value .. '\\n' .. value .. '\\n' end
-- In pcall: an ACL that refuses the publish must not turn an append that happened into an error.
local function publish(channel, after, lines) redis.pcall('PUBLISH', channel, after .. '\\n' .. lines) end
local function live_longer(key, ttl_ms)
  if redis.call('PTTL', key) < ttl_ms then redis.call('PEXPIRE', key, ttl_ms) end
end
local function seq_order(id)
  local epoch, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(epoch), tonumber(seq)
end
"""

#: The request's JSON begins with its digest, which stays readable while the log is a tombstone.
_STORE: Final = """
local function known(request, digest)
  if redis.call('EXISTS', log) == 0 then return end
  local found = redis.call('GETRANGE', request, 11, 74)
  if found == '' then local first = job(); found = first and first.digest end
  return found == digest and 'same' or 'conflict'
end
local function store(request, value, record, now, deadline, expires)
  redis.call('SET', request, value, 'PXAT', expires)
  redis.call('XADD', log, '0-1', 'job',
    string.format('{"ts":%.0f,"deadline":%.0f,', now, deadline) .. string.sub(record, 2))
  redis.call('PEXPIREAT', log, expires)
end
"""

#: KEYS log, request, queue, queue payload, wake list, open, and queues for a queue other than the default one
#: ARGV 1 request, 2 job record without times, 3 digest, 4 delay ms, 5 deadline ms after the delay, 6 grace ms,
#:      7 retention ms, 8 queued id, 9 queue payload, 10 queue capacity (0: none), 11 job id, 12 first check after ms,
#:      13 that queue's name
_SUBMIT: Final = """
local there = known(KEYS[2], ARGV[3])
if there then return {there} end
local now = math.floor(now_us() / 1000)
local due = now + tonumber(ARGV[4])
local deadline = due + tonumber(ARGV[5])
local expires = deadline + tonumber(ARGV[6]) + tonumber(ARGV[7])
local ttl = expires - now
local queued = enqueue(KEYS[3], KEYS[4], KEYS[5], ARGV[8], ARGV[9], due, ttl, now, tonumber(ARGV[10]))
if queued == -1 then return {'full'} end
if KEYS[7] then know_queue(KEYS[7], ARGV[13], now, ttl) end
redis.call('ZADD', KEYS[6], due + tonumber(ARGV[12]), ARGV[11])
live_longer(KEYS[6], ttl)
store(KEYS[2], ARGV[1], ARGV[2], now, deadline, expires)
return {'stored'}
"""


def submit_source(enqueue_lua: str) -> str:
    """The submit script around the queue's own `enqueue` function: log and queue are written in one script."""
    return PREAMBLE + _STORE + enqueue_lua + _SUBMIT


#: Where the queue has a server of its own: submit's three steps. Whoever dies between them leaves an entry in the index, and
#: the sweep finds out how far it came.
#:
#: On the queue's server. KEYS open, queue; ARGV 1 job id, 2 due after ms, 3 ttl ms, 4 capacity (0: none).
ADMIT: Final = (
    PREAMBLE
    + """
local capacity = tonumber(ARGV[4])
if capacity > 0 and redis.call('ZCARD', KEYS[2]) >= capacity then return {'full'} end
redis.call('ZADD', KEYS[1], 'NX', math.floor(now_us() / 1000) + tonumber(ARGV[2]), ARGV[1])
live_longer(KEYS[1], tonumber(ARGV[3]))
return {'ok'}
"""
)

#: On the log's server. KEYS log, request; ARGV 1 to 7 as submit's; without a request only: what is known? Of a job that is
#: known with this digest, 'same' and whether it has not ended.
STORE: Final = (
    PREAMBLE
    + _STORE
    + """
local there = known(KEYS[2], ARGV[3])
if there then return {there, sealed() and 0 or 1} end
if ARGV[1] == '' then return {'none'} end
local now = math.floor(now_us() / 1000)
local deadline = now + tonumber(ARGV[4]) + tonumber(ARGV[5])
store(KEYS[2], ARGV[1], ARGV[2], now, deadline, deadline + tonumber(ARGV[6]) + tonumber(ARGV[7]))
return {'stored', 1}
"""
)


def queue_source(enqueue_lua: str) -> str:
    """The last step, on the queue's server again. KEYS queue, queue payload, wake list, open, and queues for a queue
    other than the default one; ARGV 1 queued id, 2 queue payload, 3 delay ms, 4 ttl ms, 5 job id, 6 next check after ms,
    7 that queue's name. Changes nothing of a job that is queued already."""
    return (
        PREAMBLE
        + enqueue_lua
        + """
local now = math.floor(now_us() / 1000)
local due = now + tonumber(ARGV[3])
if KEYS[5] then know_queue(KEYS[5], ARGV[7], now, tonumber(ARGV[4])) end
local queued = enqueue(KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2], due, ARGV[4], now, 0)
redis.call('ZADD', KEYS[4], 'NX', due + tonumber(ARGV[6]), ARGV[5])
live_longer(KEYS[4], tonumber(ARGV[4]))
return {queued}
"""
    )


#: KEYS log; ARGV 1 channel, 2 nonce, 3 incarnation, 4 the last epoch that the claimer knows of ('' = claim whatever
#: stands), 5 random 0..1023, 6 attempt record without `after` and `ts`. Microseconds and a random part: with milliseconds,
#: two claims around a rollback of the server got the same epoch, and a zombie wrote into the other's attempt. A claim may
#: be carried out long after its sender gave it up (its connection was cut, its bytes were not): then it finds itself, or
#: an epoch that it did not know of, and must not take the log from who holds it.
CLAIM: Final = (
    PREAMBLE
    + """
if redis.call('EXISTS', log) == 0 then return {'gone'} end
if sealed() then return {'sealed'} end
if not of_incarnation(ARGV[3]) then return {'gone'} end
local id = top()
local stands = seq_order(id)
local begun = string.format('%.0f', stands) .. '-0'
local attempt = redis.call('XRANGE', log, begun, begun)[1]
if attempt then
  local record = cjson.decode(attempt[2][2])
  if record.nonce == ARGV[2] then return {'claimed', begun, record.after} end
end
local known = tonumber(ARGV[4]) or stands
if stands > known then return {'fenced', id} end
local now = now_us()
local epoch = math.max(now, known + 1) + tonumber(ARGV[5])
local claimed = string.format('%.0f-0', epoch)
local record = '{"after":"' .. id .. '","ts":' .. ms(now) .. ',' .. string.sub(ARGV[6], 2)
redis.call('XADD', log, claimed, 'attempt', record)
publish(ARGV[1], id, line(claimed, 'attempt', record))
return {'claimed', claimed, id}
"""
)

#: What an append or a seal that found another top than its writer expects answers.
_MISMATCH: Final = """
local function mismatch(found, expected)
  if redis.call('EXISTS', log) == 0 then return {'gone'} end
  if sealed() then return {'sealed'} end
  if not of_incarnation(ARGV[3]) then return {'gone'} end
  local found_epoch = seq_order(found)
  local own_epoch = seq_order(expected)
  if found_epoch > own_epoch then return {'fenced', found} end
  return {'lost', found}
end
"""

#: KEYS log; ARGV 1 channel, 2 expected top, 3 incarnation, 4 epoch, 5 first seq, then pairs of field and value
APPEND: Final = (
    PREAMBLE
    + _MISMATCH
    + """
local found = top()
local seq = tonumber(ARGV[5])
if found ~= ARGV[2] then
  local last = ARGV[4] .. '-' .. string.format('%.0f', seq + (#ARGV - 5) / 2 - 1)
  -- The answer to this very append was lost, and it is sent again.
  if found == last then return {'ok'} end
  return mismatch(found, ARGV[2])
end
local lines = {}
for i = 6, #ARGV, 2 do
  local id = ARGV[4] .. '-' .. string.format('%.0f', seq)
  redis.call('XADD', log, id, ARGV[i], ARGV[i + 1])
  lines[#lines + 1] = line(id, ARGV[i], ARGV[i + 1])
  seq = seq + 1
end
publish(ARGV[1], found, table.concat(lines))
return {'ok'}
"""
)

#: KEYS log, request; ARGV 1 channel, 2 expected top ('' = whatever it is), 3 incarnation ('' = any),
#: 4 end record without `last` and `ts`, 5 job id, 6 '1' to delete: no snapshot will come
SEAL: Final = (
    PREAMBLE
    + _MISMATCH
    + f"""
if redis.call('EXISTS', log) == 0 then return {{'gone'}} end
local found, field, value = top()
if not found then return {{'sealed', '', ''}} end
local first = job()
if found ~= '{END}' then
  if ARGV[2] ~= '' and found ~= ARGV[2] then return mismatch(found, ARGV[2]) end
  if ARGV[3] ~= '' and not of_incarnation(ARGV[3]) then return {{'gone'}} end
  value = '{{"last":"' .. found .. '","ts":' .. ms(now_us()) .. ',' .. string.sub(ARGV[4], 2)
  redis.call('XADD', log, '{END}', 'end', value)
  publish(ARGV[1], found, line('{END}', 'end', value))
  if first then
    local retention = tonumber(first.retention_ms)
    if redis.call('PTTL', log) > retention then
      redis.call('PEXPIRE', log, retention)
      redis.call('PEXPIRE', KEYS[2], retention)
    end
  end
  field = 'ok'
else
  if ARGV[3] ~= '' and not of_incarnation(ARGV[3]) then return {{'gone'}} end
  field = 'sealed'
end
if ARGV[6] == '1' then
  redis.call('DEL', KEYS[2])
  redis.call('XTRIM', log, 'MAXLEN', 0)
end
return {{field, found, value}}
"""
)

#: KEYS log, request, snapshot. The id stays taken until the log's time is over.
ERASE: Final = (
    PREAMBLE
    + """
if redis.call('EXISTS', log) == 0 then return {'gone'} end
if not sealed() then return {'open'} end
redis.call('DEL', KEYS[2], KEYS[3])
redis.call('XTRIM', log, 'MAXLEN', 0)
return {'ok'}
"""
)

#: KEYS log, snapshot; ARGV 1 incarnation, 2 the snapshot, 3 the end record that it was made with ('' = any)
SNAPSHOT: Final = (
    PREAMBLE
    + f"""
local found, _, value = top()
if found ~= '{END}' or not of_incarnation(ARGV[1]) then return {{'no'}} end
-- An end that the server lost can be written again: a snapshot from before that is not what stands.
if ARGV[3] ~= '' and ARGV[3] ~= value then return {{'no'}} end
local ttl = redis.call('PTTL', log)
if ttl <= 0 then return {{'no'}} end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ttl)
redis.call('XTRIM', log, 'MAXLEN', 0)
return {{'ok'}}
"""
)

#: What a stream of ended jobs keeps: what some group has not acknowledged, up to `limit`, and the last `kept` in any case,
#: for groups that come later. Looked at every hundredth part of `kept`: with a group that is behind it costs an XINFO and an
#: XPENDING for each group. Returns how many were dropped although a group had not acknowledged them.
_MAKE_ROOM: Final = """
local function make_room(stream, kept, limit)
  local length = redis.call('XLEN', stream)
  if length <= kept or length % math.max(1, math.floor(kept / 100)) ~= 0 then return 0 end
  local epoch, seq
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local told = {}
    for i = 1, #group, 2 do told[group[i]] = group[i + 1] end
    local pending = redis.call('XPENDING', stream, told.name)
    local group_epoch, group_seq
    if pending[1] > 0 then
      group_epoch, group_seq = seq_order(pending[2])
    else
      group_epoch, group_seq = seq_order(told['last-delivered-id'])
      group_seq = group_seq + 1
    end
    if not epoch or group_epoch < epoch or (group_epoch == epoch and group_seq < seq) then
      epoch, seq = group_epoch, group_seq
    end
  end
  if not epoch then redis.call('XTRIM', stream, 'MAXLEN', kept) return 0 end
  local needed = string.format('(%.0f-%.0f', epoch, seq)
  -- Bounded: a group that was far behind and has caught up leaves many, and the next calls go on.
  local free = redis.call('XRANGE', stream, '-', needed, 'COUNT', math.min(length - kept, 1000))
  if #free > 0 then
    local last_epoch, last_seq = seq_order(free[#free][1])
    redis.call('XTRIM', stream, 'MINID', string.format('%.0f-%.0f', last_epoch, last_seq + 1))
  end
  if length - #free > limit then return redis.call('XTRIM', stream, 'MAXLEN', limit) end
  return 0
end
"""

_HANDED_OFF: Final = """
local function standing(trimmed)
  if redis.call('EXISTS', log) == 1 and not sealed() then return 'open' end
  if trimmed ~= '1' and redis.call('XLEN', log) > 0 and redis.call('PTTL', log) > 0 then return 'whole' end
  return 'ok'
end
local function tell(open, stream, id, ttl, kept, limit, fields, lost)
  if redis.call('ZREM', open, id) == 0 and not lost then return 0 end
  redis.call('XADD', stream, '*', unpack(fields))
  live_longer(stream, tonumber(ttl))
  return make_room(stream, tonumber(kept), tonumber(limit))
end
"""

#: KEYS log, open, the job's stream of ended ones; ARGV 1 job id, 2 ttl ms, 3 '1' if no snapshot can be made of it, 4 how many
#: ended ones are kept, 5 how many at most, then fields and values. The hand-off: a hint, the truth is the log. So it looks
#: there: an end or a snapshot that the server lost since it was written must not take the job out of what the sweep looks
#: through. A server that loses the entry loses the ZREM with it: the sweep hands the job off again.
HAND_OFF: Final = (
    PREAMBLE
    + _MAKE_ROOM
    + _HANDED_OFF
    + """
local stands = standing(ARGV[3])
if stands ~= 'ok' then return {stands} end
return {'ok', tell(KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[4], ARGV[5], {unpack(ARGV, 6)})}
"""
)

#: Where the queue has a server of its own, the hand-off's first step, on the log's. KEYS log; ARGV 1 as its 3.
STANDING: Final = PREAMBLE + _MAKE_ROOM + _HANDED_OFF + "return {standing(ARGV[1])}"

#: And its second, on the queue's server. KEYS open, the job's stream of ended ones, handed; ARGV 1 job id, 2 ttl ms, 3 after
#: how many ms to look whether its end still stands: the log's server may go back, and this one does not go back with it,
#: 4 how many are kept, 5 how many at most, 6 the job and which end of it, then fields and values. An end that is in neither index
#: has been lost here, or stands for one that was lost there; unless it was told long ago: rather twice than never.
TELL: Final = (
    PREAMBLE
    + _MAKE_ROOM
    + _HANDED_OFF
    + """
local lost = not redis.call('ZSCORE', KEYS[3], ARGV[6])
redis.call('ZADD', KEYS[3], math.floor(now_us() / 1000) + tonumber(ARGV[3]), ARGV[6])
live_longer(KEYS[3], tonumber(ARGV[2]))
return {'ok', tell(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[4], ARGV[5], {unpack(ARGV, 7)}, lost)}
"""
)
