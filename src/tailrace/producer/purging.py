"""Removing what is no longer wanted, in bounded steps: a server with a million keys must not stand still for it.

For operators. Everything here has a time to live anyway; this is for those who cannot wait for it.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Any, Final

from tailrace.joblog import Broker, Overview, in_our_words, look
from tailrace.producer.submitting import Producer
from tailrace.queue import IN_PROGRESS_PREFIX, RETRY_PREFIX, payload_key
from tailrace.schemas import (
    BrokerUnavailable,
    HistoryLost,
    InvalidRequest,
    JobNotFound,
    Keys,
    check_group,
    check_job_id,
)

#: Keys that one step of a walk through the key space looks at: about a millisecond of the server's time.
_STEP: Final = 1000
#: Keys that are unlinked in one command.
_TOGETHER: Final = 500


class Purger:
    """Removes from one namespace."""

    def __init__(self, broker: Broker, keys: Keys, producer: Producer) -> None:
        self._broker, self._keys, self._producer = broker, keys, producer
        self.left: dict[str, BrokerUnavailable] = {}
        """Of several servers with logs, those that were away, and why: what they have was left."""

    async def ended_jobs(self, wanted: Callable[[Overview], bool]) -> AsyncGenerator[tuple[str, Overview]]:
        """Every job that has ended and is wanted, as long as it is kept: also those that the hand-off has forgotten.

        A walk through all keys of the database, in no order; without those that are `left`. Raises: BrokerUnavailable,
        BrokerUnsuitable (no right to SCAN).
        """
        before, _, behind = self._keys.log("*").partition("*")
        async for names in self._walk(self._broker, self._keys.log("*")):
            for name in names:
                if self._broker.place(name) in self.left:
                    continue
                job_id = name.removeprefix(before).removesuffix(behind)
                # What is not there any more, was deleted before, or is none of ours has nothing to remove.
                with suppress(JobNotFound, HistoryLost, InvalidRequest, ValueError):
                    try:
                        overview = await look(self._broker, self._keys, check_job_id(job_id))
                    except BrokerUnavailable as error:
                        self._leave(self._broker.place(name), error)
                        continue
                    if overview.status.ended and wanted(overview):
                        yield job_id, overview

    async def delete(self, job_id: str) -> bool:
        """Remove an ended job's request and records. False if it was gone, or is left. Raises: BrokerUnavailable,
        BrokerUnsuitable."""
        place = self._broker.place(self._keys.log(job_id))
        try:
            if place not in self.left:
                await self._producer.delete(job_id)
        except JobNotFound:
            return False
        except BrokerUnavailable as error:
            self._leave(place, error)
        return place not in self.left

    def _leave(self, place: str, error: BrokerUnavailable) -> None:
        """Go on without this server. Raises: the error, if there is no other."""
        if not self._broker.spread:
            raise error
        self.left.setdefault(place, error)

    async def parked(self, group: str, *, before_ms: int | None, remove: bool) -> int:
        """How many entries a group has parked (before then); with `remove` they are gone.

        Raises: InvalidRequest, BrokerUnavailable, BrokerUnsuitable.
        """
        name = self._keys.parked(check_group(group))
        if remove:
            # The ids are the server's milliseconds.
            how = ("MAXLEN", 0) if before_ms is None else ("MINID", before_ms)
            return int(await self._broker.queue.call("XTRIM", name, *how))
        count, last = 0, "-"
        end = "+" if before_ms is None else f"({before_ms}-0"
        while page := await self._broker.queue.call("XRANGE", name, last, end, "COUNT", _STEP):
            count += len(page)
            last = f"({page[-1][0].decode()}"
        return count

    async def groups(self) -> list[str]:
        """The groups of the hand-off. Raises: BrokerUnavailable, BrokerUnsuitable."""
        found: dict[str, None] = {}
        for stream in self._keys.ended_streams:
            if await self._broker.queue.call("EXISTS", stream):
                for group in await self._broker.queue.call("XINFO GROUPS", stream):
                    found[group["name"].decode(errors="replace")] = None
        return list(found)

    async def drop_group(self, group: str) -> int:
        """Remove a group, and what it has not acknowledged; of how many streams. Raises: as `groups`."""
        dropped = 0
        for stream in self._keys.ended_streams:
            if await self._broker.queue.call("EXISTS", stream):
                dropped += int(await self._broker.queue.call("XGROUP DESTROY", stream, check_group(group)))
        return dropped

    async def dead_workers(self, *, remove: bool) -> list[str]:
        """Workers of the last hour that fell silent; with `remove` they are forgotten. Raises: as `groups`."""
        dead = [name for name, alive in (await self._workers()).items() if not alive]
        if dead and remove:
            await self._broker.queue.call("ZREM", self._keys.workers, *dead)
        return dead

    async def live_workers(self) -> list[str]:
        """Workers that have announced themselves of late. Raises: as `groups`."""
        return [name for name, alive in (await self._workers()).items() if alive]

    async def _workers(self) -> dict[str, bool]:
        """Who has announced itself within the hour, and whether that is recent."""
        names = [
            each.decode(errors="replace") for each in await self._broker.queue.call("ZRANGE", self._keys.workers, 0, -1)
        ]
        there = await self._broker.queue.many([("EXISTS", self._keys.worker(name)) for name in names]) if names else []
        return {name: found == 1 for name, found in zip(names, there, strict=True)}

    async def whole_namespace(self, *, remove: bool) -> AsyncGenerator[int]:
        """Every key of the namespace, running jobs and all: how many so far, step by step; with `remove` they are gone.

        Without those that are `left`. Writers never create a log again, so what still runs stops by itself.
        Raises: BrokerUnavailable, BrokerUnsuitable.
        """
        every = self._keys.queued("*")  # the queue's keys end like this, and ours begin like this
        count = 0
        patterns = (every, payload_key(self._keys, "*"), IN_PROGRESS_PREFIX + every, RETRY_PREFIX + every)
        # The queue's server first: what is not in the queue is not begun any more.
        for broker in (self._broker.queue, self._broker) if self._broker.apart else (self._broker,):
            for pattern in patterns:
                async for names in self._walk(broker, pattern):
                    count += len(names)
                    for begin in range(0, len(names) if remove else 0, _TOGETHER):
                        count -= await self._unlink(broker, names[begin : begin + _TOGETHER])
                    yield count

    async def _unlink(self, broker: Broker, names: list[str]) -> int:
        """How many of them are left."""
        if not broker.spread:
            await broker.call("UNLINK", *names)
            return 0
        left = 0
        # Each has a slot of its own, and may be with another node by now.
        for name, answer in zip(names, await self._each(broker, names), strict=True):
            ours = (in_our_words(answer) or answer) if isinstance(answer, Exception) else None
            if isinstance(ours, BrokerUnavailable):
                self._leave(broker.place(name), ours)
                left += 1
            elif ours is not None:
                raise ours
        return left

    async def _each(self, broker: Broker, names: list[str]) -> list[Any]:
        try:
            return await broker.many([("UNLINK", name) for name in names])
        except BrokerUnavailable as error:  # they are all on one server
            return [error] * len(names)

    async def _walk(self, broker: Broker, pattern: str) -> AsyncGenerator[list[str]]:
        """The names of all keys on the broker's servers, step by step; one may come twice, and one that moves to another
        server meanwhile may not come. Raises: BrokerUnavailable, BrokerUnsuitable."""
        await broker.look_again()
        for place, server in broker.parts.items():
            cursor: Any = 0
            while not (broker.spread and place in self.left):
                try:
                    cursor, names = await server.call("SCAN", cursor, "MATCH", pattern, "COUNT", _STEP)
                except BrokerUnavailable as error:
                    if not broker.spread:
                        raise
                    self._leave(place, error)
                    break
                # A key that is no text is none of ours.
                yield list(dict.fromkeys(text for name in names if (text := name.decode(errors="replace")).isascii()))
                if not int(cursor):
                    break
