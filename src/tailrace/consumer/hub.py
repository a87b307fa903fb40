"""Who listens to which job in this process, and which connection hears it: one for each server that has logs.

The tails that readers share (`tails`) listen, and followers of their own, each with a bounded buffer. Who does not keep up
loses the buffer and reads the log from where it stands; it slows nobody.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Final, Self

from tailrace.consumer.channels import Channel, Listener, LiveFeed
from tailrace.consumer.ear import Ear
from tailrace.joblog import Broker
from tailrace.joblog.tasks import end
from tailrace.schemas import BrokerUnavailable, Keys

#: A lost last publication leaves no hole to notice, so a quiet job's top is looked at this often.
LOOK_S: Final = 2.0
#: Between two looks at where channels are.
_LOOK_AGAIN_S: Final = 0.05


class Hub:
    """The channels of one process."""

    def __init__(self, broker: Broker, keys: Keys, *, look_s: float = LOOK_S) -> None:
        self._broker, self._keys, self._look_s = broker, keys, look_s
        self._channels: dict[str, Channel] = {}
        self._ears: dict[str, Ear] = {}
        self._astray = asyncio.Event()
        self._moved = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        if self._broker.spread:
            self._broker.on_change(self._moved.set)
            self._tasks = {asyncio.create_task(self._keep_in_place(), name="tailrace-hub")}
        return self

    async def __aexit__(self, *_: object) -> None:
        await end(self._tasks)
        for ear in self._ears.values():
            await ear.close()

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
            channel = self._channels[name] = Channel(job_id, self._ear_of(job_id))
            channel.ear.add(channel)
        channel.listeners[listener] = None
        return channel

    def leave(self, channel: Channel, listener: Listener) -> None:
        """Hear it no more. Nothing, if it was not heard."""
        channel.listeners.pop(listener, None)
        name = self._keys.live(channel.job_id)
        if not channel.listeners and self._channels.get(name) is channel:
            del self._channels[name]
            channel.ear.remove(channel)

    async def confirmed(self, channel: Channel) -> None:
        """Wait until the server has confirmed the subscription. Raises: BrokerUnavailable, BrokerUnsuitable."""
        while True:
            ear = channel.ear
            try:
                await ear.confirmed(channel)
            except BrokerUnavailable:
                if not self._broker.spread:
                    raise
                # Where it was said to be; or, before anybody had asked, at any node that the URL names.
                await self._broker.look_again()
                self._put_in_place(channel)
                if channel.ear is ear:
                    raise
            else:
                return

    def _ear_of(self, job_id: str) -> Ear:
        place = self._broker.place(self._keys.log(job_id))
        ear = self._ears.get(place)
        if ear is None:
            ear = self._ears[place] = Ear(self._broker, self._keys, place, look_s=self._look_s, astray=self._astray.set)
            ear.start()
        return ear

    def _put_in_place(self, channel: Channel) -> None:
        ear = self._ear_of(channel.job_id)
        if ear is not channel.ear and self._channels.get(self._keys.live(channel.job_id)) is channel:
            channel.ear.remove(channel, gone=True)
            ear.add(channel)

    async def _keep_in_place(self) -> None:
        """Hear channels where they are: nodes of a cluster fail over, and slots move."""
        while True:
            waiting = [asyncio.create_task(event.wait()) for event in (self._astray, self._moved)]
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                await end(waiting)
            if self._astray.is_set():
                self._astray.clear()
                with suppress(BrokerUnavailable):
                    await self._broker.look_again()
            self._moved.clear()
            for channel in list(self._channels.values()):
                self._put_in_place(channel)
            for ear in list(self._ears.values()):
                ear.again()
            await asyncio.sleep(_LOOK_AGAIN_S)
