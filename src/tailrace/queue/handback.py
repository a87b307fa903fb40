"""Giving back the jobs of a worker that is known to be dead, without waiting for its leases to run out."""

from collections.abc import Sequence
from typing import Final, cast

from redis.asyncio import Redis

from tailrace.queue.enqueue import NOW_LUA, WAKE_LUA
from tailrace.queue.leases import places_of
from tailrace.queue.names import IN_PROGRESS_PREFIX
from tailrace.queue.redispy import typed
from tailrace.schemas.keys import DEFAULT_QUEUE, Keys

_HAND_BACK_LUA: Final = (
    NOW_LUA
    + WAKE_LUA
    + f"local in_progress_prefix = '{IN_PROGRESS_PREFIX}'\n"
    + """
local holder = ARGV[1]
local now = server_ms()
local given = 0
for at = 1, #KEYS, 2 do
  local queue, wake = KEYS[at], KEYS[at + 1]
  -- A running job's score is the end of its lease.
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', queue, now, now + tonumber(ARGV[2]))) do
    local owner = redis.pcall('GET', in_progress_prefix .. id)
    if type(owner) == 'string' and string.sub(owner, 1, #holder) == holder then
      redis.call('DEL', in_progress_prefix .. id)
      redis.call('ZADD', queue, 'XX', string.format('%.0f', now), id)
      wake_up(wake)
      given = given + 1
    end
  end
end
return given
"""
)


def holder(worker_name: str) -> str:
    """What the token of every lease of this worker begins with."""
    return f"{worker_name}/"


async def hand_back(
    redis: Redis, keys: Keys, worker_name: str, *, lease_s: float, queues: Sequence[str] = (DEFAULT_QUEUE,)
) -> int:
    """Put the running jobs of a dead worker back into its queues at once; how many there were.

    Only for who knows that it is dead (its parent): a worker that lives loses its jobs. Raises: RedisError, OSError.
    """
    script = typed(redis).register_script(_HAND_BACK_LUA)
    return cast("int", await script(places_of(keys, queues), [holder(worker_name), int(lease_s * 1000) + 1000]))
