
local log = KEYS[1]
local function top()
  local entry = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  if entry then return entry[1], entry[2][1], entry[2][2] end
end
local function sealed()
  local id = top()
  if id then return id == '18446744073709551615-18446744073709551615' end
  -- An emptied stream is the tombstone of a snapshot or of a deleted job: it still refuses every id.
  return redis.call('EXISTS', log) == 1
end
local function job()
  local entry = redis.call('XRANGE', log, '0-1', '0-1')[1]
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
local function line(id, field, value) return id .. ' ' .. field .. ' ' .. #value .. '\n' .. value .. '\n' end
-- In pcall: an ACL that refuses the publish must not turn an append that happened into an error.
local function publish(channel, after, lines) redis.pcall('PUBLISH', channel, after .. '\n' .. lines) end
local function live_longer(key, ttl_ms)
  if redis.call('PTTL', key) < ttl_ms then redis.call('PEXPIRE', key, ttl_ms) end
end
local function seq_order(id)
  local epoch, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(epoch), tonumber(seq)
end

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

local soon_ms = 1000
local function wake_up(wake)
  redis.call('LPUSH', wake, '1')
  redis.call('LTRIM', wake, 0, 999)
  redis.call('PEXPIRE', wake, 60000)
end

local function know_queue(queues, name, now_ms, ttl_ms)
  local ttl = string.format('%.0f', ttl_ms)
  redis.call('ZADD', queues, 'GT', string.format('%.0f', now_ms + ttl_ms), name)
  if redis.call('PTTL', queues) < tonumber(ttl) then
    redis.call('PEXPIRE', queues, ttl)
  end
end
local function enqueue(queue, payload_key, wake, id, payload, due_ms, ttl_ms, now_ms, capacity)
  due_ms, ttl_ms, now_ms, capacity = tonumber(due_ms), tonumber(ttl_ms), tonumber(now_ms), tonumber(capacity)
  if redis.call('ZSCORE', queue, id) then
    return 0
  end
  if capacity > 0 and redis.call('ZCARD', queue) >= capacity then
    return -1
  end
  local ttl = string.format('%.0f', ttl_ms)
  redis.call('SET', payload_key, payload, 'PX', ttl)
  redis.call('ZADD', queue, string.format('%.0f', due_ms), id)
  if redis.call('PTTL', queue) < ttl_ms then
    redis.call('PEXPIRE', queue, ttl)
  end
  if due_ms - now_ms < soon_ms then
    wake_up(wake)
  end
  return 1
end

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
