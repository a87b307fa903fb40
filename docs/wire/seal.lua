#!lua flags=allow-oom

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

local function mismatch(found, expected)
  if redis.call('EXISTS', log) == 0 then return {'gone'} end
  if sealed() then return {'sealed'} end
  if not of_incarnation(ARGV[3]) then return {'gone'} end
  local found_epoch = seq_order(found)
  local own_epoch = seq_order(expected)
  if found_epoch > own_epoch then return {'fenced', found} end
  return {'lost', found}
end

if redis.call('EXISTS', log) == 0 then return {'gone'} end
local found, field, value = top()
if not found then return {'sealed', '', ''} end
local first = job()
if found ~= '18446744073709551615-18446744073709551615' then
  if ARGV[2] ~= '' and found ~= ARGV[2] then return mismatch(found, ARGV[2]) end
  if ARGV[3] ~= '' and not of_incarnation(ARGV[3]) then return {'gone'} end
  value = '{"last":"' .. found .. '","ts":' .. ms(now_us()) .. ',' .. string.sub(ARGV[4], 2)
  redis.call('XADD', log, '18446744073709551615-18446744073709551615', 'end', value)
  publish(ARGV[1], found, line('18446744073709551615-18446744073709551615', 'end', value))
  if first then
    local retention = tonumber(first.retention_ms)
    if redis.call('PTTL', log) > retention then
      redis.call('PEXPIRE', log, retention)
      redis.call('PEXPIRE', KEYS[2], retention)
    end
  end
  field = 'ok'
else
  if ARGV[3] ~= '' and not of_incarnation(ARGV[3]) then return {'gone'} end
  field = 'sealed'
end
if ARGV[6] == '1' then
  redis.call('DEL', KEYS[2])
  redis.call('XTRIM', log, 'MAXLEN', 0)
end
return {field, found, value}
