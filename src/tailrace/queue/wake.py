"""Hearing of new jobs: words in a list, one for each job that is queued or handed back, to be due soon."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final, cast

from redis.exceptions import RedisError

from tailrace.queue.enqueue import WAKE_LUA
from tailrace.queue.outage import Outage
from tailrace.queue.redispy import Client

logger = logging.getLogger(__name__)

LONGEST_WAIT_S: Final = 1.0

_WAKE: Final = WAKE_LUA + "wake_up(KEYS[1]) return 1"


class Listener:
    """Waits for words while `listening` is set, on one connection of its own, and calls `heard()` for each.

    If `heard()` answers False the word goes back into the list that it was in, for another worker. Not all words arrive (a
    connection can die with one): look at the queue from time to time as well.
    """

    def __init__(self, redis: Client, *, wakes: Sequence[str], worker: str, heard: Callable[[], bool]) -> None:
        self.listening = asyncio.Event()
        self._redis = redis
        self._wakes = list(wakes)
        self._heard = heard
        self._outage = Outage(f"worker {worker!r}, listening", logger)
        self._script = redis.register_script(_WAKE)
        socket_timeout: float | None = redis.connection_pool.connection_kwargs.get("socket_timeout")
        # A blocking read must end before its socket times out.
        self._wait_s = min(LONGEST_WAIT_S, socket_timeout / 2) if socket_timeout else LONGEST_WAIT_S

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.listening.wait()
            try:
                # The outer limit is for a connection that died without a word.
                async with asyncio.timeout(self._wait_s + LONGEST_WAIT_S):
                    word = await self._redis.blpop(self._wakes, self._wait_s)
                self._outage.over()
                if word is not None and not self._heard():
                    wake, _ = cast("tuple[bytes, bytes]", word)
                    await self._script([wake.decode()], [])
            except (RedisError, OSError) as error:
                await asyncio.sleep(self._outage.failed(error))

    async def wake_another(self) -> None:
        """For each of the lists. Raises: RedisError, OSError."""
        for wake in self._wakes:
            await self._script([wake], [])
