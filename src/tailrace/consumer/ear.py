"""One connection that hears the live channels of the jobs on one server.

A publication is decoded once and handed to all who listen to its job here.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Final

from redis.exceptions import MovedError, RedisError

from tailrace.consumer.channels import Channel
from tailrace.joblog import Broker, Look, PubSub, in_our_words, parse_publication
from tailrace.joblog.tasks import end
from tailrace.schemas import BrokerUnavailable, BrokerUnsuitable, Keys, Position, TailraceError

logger = logging.getLogger(__name__)

#: How long a subscription may take to be confirmed.
SUBSCRIBE_S: Final = 5.0
#: No word from the server for this long, a ping's answer included: the connection is dead, whatever TCP says.
SILENCE_S: Final = 5.0
#: Readers wait this long for a server that went away.
PATIENCE_S: Final = 60.0
_PAUSES_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0)


class Ear:
    """The subscriptions to one server. Connects when the first channel comes."""

    def __init__(self, broker: Broker, keys: Keys, place: str, *, look_s: float, astray: Callable[[], None]) -> None:
        """`astray` is called when a channel may have another server by now."""
        self._broker, self._keys, self.place, self._look_s, self._astray = broker, keys, place, look_s, astray
        # In a cluster a channel is on its job's node, and several of one command must share a slot.
        self._subscribe, self._unsubscribe = (
            ("SSUBSCRIBE", "SUNSUBSCRIBE") if broker.spread else ("SUBSCRIBE", "UNSUBSCRIBE")
        )
        self.channels: dict[str, Channel] = {}
        self._asked: set[str] = set()
        self._let_go: set[str] = set()
        self._pubsub: PubSub | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._wanted = asyncio.Event()
        self._failure: TailraceError | None = None
        self._failed = asyncio.Event()

    def start(self) -> None:
        """From now on, until `close`."""
        self._tasks = [
            asyncio.create_task(self._listen(), name="tailrace-ear"),
            asyncio.create_task(self._look_around(), name="tailrace-ear-look"),
        ]

    async def close(self) -> None:
        await end(self._tasks)
        await self._disconnect()

    def add(self, channel: Channel) -> None:
        """Hear this channel."""
        name = self._keys.live(channel.job_id)
        channel.ear = self
        self.channels[name] = channel
        # What failed before this reader came says nothing: the next try will tell.
        self._failed.clear()
        self._wanted.set()
        self._say(self._subscribe, name)

    def remove(self, channel: Channel, *, gone: bool = False) -> None:
        """Hear it no more; `gone`: the server has it no more."""
        name = self._keys.live(channel.job_id)
        self.channels.pop(name, None)
        self._let_go.discard(name)
        if not gone:
            self._say(self._unsubscribe, name)
        elif not self.channels and self._pubsub is not None:
            self._pubsub.leave()

    def again(self) -> None:
        """Ask again for the channels that the server has let go, though it is said to have them."""
        names, self._let_go = self._let_go, set()
        for name in names & self.channels.keys():
            self._say(self._subscribe, name)

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

    def _say(self, word: str, name: str) -> None:
        """Say it if there is a connection; else the next one begins with all channels anyway."""
        if self._pubsub is not None:
            if word == self._subscribe:
                self._asked.add(name)
            self._pubsub.say(word, name)

    async def _listen(self) -> None:
        pauses = 0
        while True:
            await self._wanted.wait()
            if not self.channels:
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
                    at = f" ({self.place})" if self.place else ""
                    logger.warning("live channels%s: connection lost (%s), connecting again", at, type(error).__name__)
                pauses += 1
                self._failure = in_our_words(error)
                # A connection that broke is no reason to turn readers away: the next one may be there in a moment.
                if not answers or isinstance(self._failure, BrokerUnsuitable):
                    self._failed.set()
                await self._disconnect()
                self._broker.doubt(error, self.place)
                self._astray()
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  # pacing, no secret

    async def _connect(self) -> PubSub:
        # Known before any await that follows: who subscribes meanwhile must find it.
        pubsub = self._pubsub = await self._broker.pubsub(self._take, self.place)
        self._asked, self._let_go = set(), set()
        if self._broker.spread:
            for name in self.channels:
                self._say(self._subscribe, name)
        elif self.channels:
            pubsub.say(self._subscribe, *self.channels)
        if not self.channels:
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
            case [b"message" | b"smessage", bytes(name), bytes(payload)]:
                channel = self.channels.get(name.decode("utf-8", "replace"))
                publication = parse_publication(payload)
                if channel is not None and publication is not None:
                    channel.heard_at = asyncio.get_running_loop().time()
                    channel.tell(publication)
            case [b"subscribe" | b"ssubscribe", bytes(name), int()]:
                channel = self.channels.get(name.decode("utf-8", "replace"))
                self._asked.discard(name.decode("utf-8", "replace"))
                if channel is not None:
                    again = channel.confirmed.is_set()
                    channel.confirmed.set()
                    if again:  # reconnected: whatever was published in between is in the log
                        channel.tell(Look(top=None))
            case [b"unsubscribe" | b"sunsubscribe", bytes() | None, int()] if not self.channels:
                if self._pubsub is not None:
                    self._pubsub.leave()
            case [b"sunsubscribe", bytes(name), int()] if name.decode("utf-8", "replace") in self.channels:
                # Unasked: its slot has moved, or this node is a replica now.
                self._let_go.add(name.decode("utf-8", "replace"))
                self._broker.doubt()
                self._astray()
            case MovedError():
                # It does not say of which channel.
                self._let_go |= self._asked
                self._broker.doubt(message, self.place)
                self._astray()
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
            quiet = [channel for channel in self.channels.values() if now - channel.heard_at >= self._look_s]
            if not quiet:
                continue
            commands = [("XREVRANGE", self._keys.log(channel.job_id), "+", "-", "COUNT", 1) for channel in quiet]
            try:
                answers = await self._broker.many([*commands, ("TIME",)])
            except TailraceError as error:
                away_since = now if away_since is None else away_since
                if now - away_since > PATIENCE_S:
                    for channel in list(self.channels.values()):
                        channel.tell(error)
                continue
            away_since = None
            time = answers.pop()
            now_ms = 0 if isinstance(time, Exception) else int(time[0]) * 1000
            for channel, answer in zip(quiet, answers, strict=True):
                if not isinstance(answer, Exception):
                    channel.tell(Look(Position(answer[0][0].decode()) if answer else None, now_ms))
