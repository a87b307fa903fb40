"""Which tasks there are workers for, and what they take: told by workers, read by those who submit."""

import json
from collections.abc import Mapping
from typing import Any, Final

from pydantic import TypeAdapter

from tailrace.joblog import Broker, Script
from tailrace.schemas.keys import Keys

#: How long a task is known after the last worker that knew it fell silent.
REMEMBERED_MS: Final = 3_600_000

_CARD: Final = TypeAdapter(dict[str, Any])

#: KEYS tasks; ARGV 1 how long a task is remembered, then pairs of name and card. What is stored begins with when it was told.
_OFFER: Final = Script("""
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
for i = 2, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], string.format('%.0f', now) .. ' ' .. ARGV[i + 1])
end
local known = redis.call('HGETALL', KEYS[1])
for i = 1, #known, 2 do
  local told = tonumber(string.match(known[i + 1], '^(%d+) ') or '0')
  if told <= now - tonumber(ARGV[1]) then redis.call('HDEL', KEYS[1], known[i]) end
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
""")


async def offer(broker: Broker, keys: Keys, cards: Mapping[str, Mapping[str, Any]]) -> None:
    """Tell which tasks a worker knows, by name: `input` is the JSON Schema of what a task takes.

    Raises: BrokerUnavailable, BrokerUnsuitable.
    """
    pairs = [word for name, card in cards.items() for word in (name, json.dumps(card))]
    if pairs:
        await broker.queue.run(_OFFER, [keys.tasks], [REMEMBERED_MS, *pairs])


async def offered(broker: Broker, keys: Keys, name: str) -> dict[str, Any] | None:
    """The card of a task that a worker has told of within the hour. Raises: BrokerUnavailable, BrokerUnsuitable."""
    stored = await broker.queue.call("HGET", keys.tasks, name)
    if not isinstance(stored, bytes):
        return None
    try:
        return _CARD.validate_json(stored.partition(b" ")[2])
    except ValueError:  # somebody else's data under our name
        return None
