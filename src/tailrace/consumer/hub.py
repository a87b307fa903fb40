"""One connection that hears the live channels of every job this process follows.

A publication is decoded once and handed to all who listen to its job here: the tails that readers share (`tails`), and
followers of their own, each with a bounded buffer. Who does not keep up loses the buffer and reads the log from where it
stands; it slows nobody.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final, Protocol, Self

from redis.exceptions import RedisError

from tailrace.joblog import Broker, Look, Publication, PubSub, in_our_words, parse_publication
from tailrace.joblog.tasks import end
from tailrace.schemas import BrokerUnavailable, BrokerUnsuitable, Keys, Position, TailraceError

logger = logging.getLogger(__name__)

#: A lost last publication leaves no hole to notice, so a quiet job's top is looked at this often.
LOOK_S: Final = 2.0
#: What one reader may have waiting before it is sent to the log instead.
BUFFERED_PUBLICATIONS: Final = 2000
BUFFERED_CHARACTERS: Final = 4 * 1024 * 1024
#: How long a subscription may take to be confirmed.
SUBSCRIBE_S: Final = 5.0
#: No word from the server for this long, a ping's answer included: the connection is dead, whatever TCP says.
SILENCE_S: Final = 5.0
#: Readers wait this long for a server that went away.
PATIENCE_S: Final = 60.0
_PAUSES_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0)


News = Publication | Look | TailraceError
"""What a job's channel brings: records, a reason to look at the log, or why there will be nothing more."""


class Listener(Protocol):
    """Who hears a job's channel."""

    def push(self, item: News) -> None:
        """Take the next; must not wait, and not raise."""
        ...


class LiveFeed:
    """A buffer of what a job's channel brought."""

    def __init__(self) -> None:
        self._items: deque[tuple[News, int]] = deque()
        self._characters = 0
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._items)

    def push(self, item: News) -> None:
        size = 0
        if isinstance(item, Publication):
            for entry in item.entries:
                size += len(entry.value)
            self._characters += size
            if len(self._items) >= BUFFERED_PUBLICATIONS or self._characters > BUFFERED_CHARACTERS:
                self.clear()
                item, size = Look(top=None), 0
        self._items.append((item, size))
        self._wake.set()

    def clear(self) -> None:
        self._items.clear()
        self._characters = 0

    async def next(self) -> Publication | Look:
        """The next publication, or a reason to look at the log. Raises: BrokerUnavailable."""
        while not self._items:
            self._wake.clear()
            await self._wake.wait()
        return self.take()

    def take(self) -> Publication | Look:
        """As `next`, of what is there. Raises: IndexError, BrokerUnavailable."""
        item, size = self._items.popleft()
        self._characters -= size
        if isinstance(item, TailraceError):
            raise item
        return item


class Channel:
    """A job's channel and who hears it in this process."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        # In the order in which they came: a dict, for a set's order is another in every run.
        self.listeners: dict[Listener, None] = {}
        self.confirmed = asyncio.Event()
        self.heard_at = 0.0

    def tell(self, item: News) -> None:
        for listener in tuple(self.listeners):
            listener.push(item)


class Hub:
    """The subscriptions of one process. Connects when the first reader comes."""

    def __init__(self, broker: Broker, keys: Keys, *, look_s: float = LOOK_S) -> None:
        self._broker, self._keys, self._look_s = broker, keys, look_s
        self._channels: dict[str, Channel] = {}
        self._pubsub: PubSub | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._wanted = asyncio.Event()
        self._failure: TailraceError | None = None
        self._failed = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._tasks = [
            asyncio.create_task(self._listen(), name="tailrace-hub"),
            asyncio.create_task(self._look_around(), name="tailrace-hub-look"),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        await end(set(self._tasks))
        await self._disconnect()

    def __len__(self) -> int:
        """How many jobs are heard."""
        return len(self._channels)

    @asynccontextmanager
    async def subscribed(self, job_id: str) -> AsyncGenerator[LiveFeed]:
        """A feed of the job's channel, subscribed when the block begins. Raises: BrokerUnavailable, BrokerUnsuitable."""
        feed = LiveFeed()
        channel = self.listen(job_id, feed)
        try:
            await self.confirmed(channel)
            yield feed
        finally:
            self.leave(channel, feed)

    def listen(self, job_id: str, listener: Listener) -> Channel:
        """Hear the job's channel, from when it is `confirmed` until `leave`."""
        name = self._keys.live(job_id)
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = Channel(job_id)
            # What failed before this reader came says nothing: the next try will tell.
            self._failed.clear()
            self._wanted.set()
            self._say("SUBSCRIBE", name)
        channel.listeners[listener] = None
        return channel

    def leave(self, channel: Channel, listener: Listener) -> None:
        """Hear it no more. Nothing, if it was not heard."""
        channel.listeners.pop(listener, None)
        name = self._keys.live(channel.job_id)
        if not channel.listeners and self._channels.get(name) is channel:
            del self._channels[name]
            self._say("UNSUBSCRIBE", name)

    async def confirmed(self, channel: Channel) -> None:
        """Wait until the server has confirmed the subscription. Raises: BrokerUnavailable, BrokerUnsuitable."""
        if channel.confirmed.is_set():
            return
        waiting = [asyncio.create_task(event.wait()) for event in (channel.confirmed, self._failed)]
        try:
            await asyncio.wait(waiting, timeout=SUBSCRIBE_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        if not channel.confirmed.is_set():
            raise self._failure or BrokerUnavailable("Redis does not confirm a subscription: is it overloaded?")

    def _say(self, word: str, channel: str) -> None:
        """Say it if there is a connection; else the next one begins with all channels anyway."""
        if self._pubsub is not None:
            self._pubsub.say(word, channel)

    async def _listen(self) -> None:
        pauses = 0
        while True:
            await self._wanted.wait()
            if not self._channels:
                self._wanted.clear()
                self._failed.clear()
                continue
            answers = False
            try:
                self._failed.clear()
                pubsub = await self._connect()
                answers = True
                if pauses:
                    logger.info("live channels: connected again after %d tries", pauses)
                pauses = 0
                await self._hear(pubsub)
                await self._disconnect()
            except (RedisError, OSError, TimeoutError) as error:
                # Paced, with some chance in it: a thousand readers of a restarted server do not come back at once.
                pause = _PAUSES_S[min(pauses, len(_PAUSES_S) - 1)]
                if pauses == 0:
                    logger.warning("live channels: connection lost (%s), connecting again", type(error).__name__)
                pauses += 1
                self._failure = in_our_words(error)
                # A connection that broke is no reason to turn readers away: the next one may be there in a moment.
                if not answers or isinstance(self._failure, BrokerUnsuitable):
                    self._failed.set()
                await self._disconnect()
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  # pacing, no secret

    async def _connect(self) -> PubSub:
        # Known before any await that follows: who subscribes meanwhile must find it.
        pubsub = self._pubsub = await self._broker.pubsub(self._take)
        if self._channels:
            pubsub.say("SUBSCRIBE", *self._channels)
        else:
            pubsub.leave()
        return pubsub

    async def _hear(self, pubsub: PubSub) -> None:
        """Until nobody listens any more. Raises: redis-py's errors, TimeoutError."""
        pinged_at = 0.0
        while not await pubsub.waited(max(pubsub.heard_at, pinged_at) + SILENCE_S):
            heard_at = pubsub.heard_at
            now = asyncio.get_running_loop().time()
            if now < max(heard_at, pinged_at) + SILENCE_S:
                continue
            if heard_at < pinged_at:
                raise TimeoutError("no answer to a ping")
            pinged_at = now
            pubsub.say("PING")

    def _take(self, message: object) -> None:
        match message:
            case [b"message", bytes(name), bytes(payload)]:
                channel = self._channels.get(name.decode("utf-8", "replace"))
                publication = parse_publication(payload)
                if channel is not None and publication is not None:
                    channel.heard_at = asyncio.get_running_loop().time()
                    channel.tell(publication)
            case [b"subscribe", bytes(name), int()]:
                channel = self._channels.get(name.decode("utf-8", "replace"))
                if channel is not None:
                    again = channel.confirmed.is_set()
                    channel.confirmed.set()
                    if again:  # reconnected: whatever was published in between is in the log
                        channel.tell(Look(top=None))
            case [b"unsubscribe", bytes() | None, int()] if not self._channels and self._pubsub is not None:
                self._pubsub.leave()
            case _:
                pass

    async def _disconnect(self) -> None:
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            await pubsub.close()

    async def _look_around(self) -> None:
        """Compare notes with the log of every job that has been quiet."""
        away_since: float | None = None
        while True:
            await asyncio.sleep(self._look_s)
            now = asyncio.get_running_loop().time()
            quiet = [channel for channel in self._channels.values() if now - channel.heard_at >= self._look_s]
            if not quiet:
                continue
            commands = [("XREVRANGE", self._keys.log(channel.job_id), "+", "-", "COUNT", 1) for channel in quiet]
            try:
                answers = await self._broker.many([*commands, ("TIME",)])
            except TailraceError as error:
                away_since = now if away_since is None else away_since
                if now - away_since > PATIENCE_S:
                    for channel in list(self._channels.values()):
                        channel.tell(error)
                continue
            away_since = None
            time = answers.pop()
            now_ms = 0 if isinstance(time, Exception) else int(time[0]) * 1000
            for channel, answer in zip(quiet, answers, strict=True):
                if not isinstance(answer, Exception):
                    channel.tell(Look(Position(answer[0][0].decode()) if answer else None, now_ms))
