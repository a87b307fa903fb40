"""Putting a job's id into the queue: by a script, so that it can share one script with the log's first record.

Imports nothing of arq: producers run without it. Time is the server's.
"""

import time
from typing import Final, cast

from redis.asyncio import Redis

from tailrace.queue.names import JOB_PREFIX
from tailrace.queue.redispy import typed
from tailrace.queue.serializer import queue_payload
from tailrace.schemas.errors import InvalidRequest, QueueFull
from tailrace.schemas.keys import DEFAULT_QUEUE, Keys, check_job_id, check_queue

MAX_WAKE_WORDS: Final = 1000
"""One word wakes one worker; more waiting words than workers serve nobody."""

WAKE_TTL_MS: Final = 60_000

SOON_MS: Final = 1000
"""Workers look at the queue at least so often by themselves. What is due before that wakes one, so that it is on time."""

WAKE_LUA: Final = f"""
local soon_ms = {SOON_MS}
local function wake_up(wake)
  redis.call('LPUSH', wake, '1')
  redis.call('LTRIM', wake, 0, {MAX_WAKE_WORDS - 1})
  redis.call('PEXPIRE', wake, {WAKE_TTL_MS})
end
"""
"""Locals: `soon_ms`, and `wake_up(wake)`, which makes one idle worker look at the queue."""

NOW_LUA: Final = """
local function server_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
"""
"""A local Lua function: the server's time in milliseconds."""

ENQUEUE_LUA: Final = (
    WAKE_LUA
    + """
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
"""
)
"""Local Lua functions to put before a script's own source (they return nothing at top level).

`enqueue(queue, payload_key, wake, id, payload, due_ms, ttl_ms, now_ms, capacity)` queues `id` to run from `due_ms` on and
answers 1; 0 if it is queued or running already, with nothing changed; -1 if the queue holds `capacity` jobs or more
(0 = no limit; running jobs count, since a job leaves the queue when it is done). `queue` = keys.queue_of(name), `payload_key` =
payload_key(keys, job_id), `wake` = that queue's, `id` = keys.queued(job_id), `payload` = queue_payload(...). `ttl_ms` counts
from now and must lie beyond the job's last possible run: a job whose payload has expired is dropped. The queue's own
time to live is only ever lengthened.

`know_queue(queues, name, now_ms, ttl_ms)` notes that there is a queue of that name, for whoever has to look into all: to be
called for each job of a queue other than the default one. `queues` = keys.queues.
"""

_ENQUEUE: Final = (
    NOW_LUA
    + ENQUEUE_LUA
    + """
local now = server_ms()
if KEYS[4] then know_queue(KEYS[4], ARGV[6], now, tonumber(ARGV[4])) end
return enqueue(KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2], now + tonumber(ARGV[3]), ARGV[4], now, ARGV[5])
"""
)


def payload_key(keys: Keys, job_id: str) -> str:
    """The key under which arq looks for what to call."""
    return JOB_PREFIX + keys.queued(job_id)


async def enqueue(
    redis: Redis,
    keys: Keys,
    job_id: str,
    *,
    delay_ms: int = 0,
    ttl_ms: int,
    capacity: int = 0,
    queue: str = DEFAULT_QUEUE,
) -> bool:
    """Queue a stored job in the queue of that name, to run `delay_ms` from now; False if it is queued or running already.

    Safe to repeat: this is what heals a job that was stored but not queued. `ttl_ms` as in ENQUEUE_LUA.

    Raises: QueueFull if the queue holds `capacity` jobs or more (0 = no limit). InvalidRequest for a job id that is none,
    or a time to live that ends before the job is due.
    """
    check_job_id(job_id)
    if delay_ms < 0 or ttl_ms <= delay_ms:
        raise InvalidRequest(f"job {job_id!r} would expire ({ttl_ms} ms) before it is due ({delay_ms} ms)")
    script = typed(redis).register_script(_ENQUEUE)
    place = keys.queue_of(queue)
    payload = queue_payload(int(time.time() * 1000))
    answer = cast(
        "int",
        await script(
            [place, payload_key(keys, job_id), keys.wake_of(place), *([] if place == keys.queue else [keys.queues])],
            [keys.queued(job_id), payload, delay_ms, ttl_ms, capacity, check_queue(queue)],
        ),
    )
    if answer < 0:
        raise QueueFull(capacity)
    return answer == 1
