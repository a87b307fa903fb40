"""A lane of the relay: group commit for all the streams whose logs are on one server.

A writer's records go out at once when the lane is idle, else with the next flush, at most one flush a millisecond; one
flush holds one append of every writer that has something. Each append names the top it expects, so it may be sent again
when its answer was lost, and never lands twice or behind a newer attempt.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final

from redis.exceptions import AskError, MovedError, NoScriptError, RedisError

from tailrace.joblog import APPEND, Broker, LogRefusal, Lost, in_our_words, refuse, translated
from tailrace.joblog.tasks import end
from tailrace.queue import Outage
from tailrace.schemas import BrokerUnavailable, TailraceError
from tailrace.worker.log_writer import LogWriter
from tailrace.worker.memory import Line
from tailrace.worker.relay_counts import RelayCounts

logger = logging.getLogger(__name__)

#: Nearly all of what group commit gains comes at 1 ms; more only adds latency.
SPACING_S: Final = 0.001


class Lane:
    """The writers to one server: gathers what they write, flushes. `run` it."""

    def __init__(
        self,
        broker: Broker,
        place: str,
        *,
        worker: str,
        counts: RelayCounts,
        reclaim: Callable[[LogWriter], Coroutine[Any, Any, None]],
    ) -> None:
        """`reclaim` makes a writer go on whose server lost something."""
        self._broker, self._place, self._counts, self._reclaim = broker, place, counts, reclaim
        self._pipe = broker.pipe(place)
        self._dirty: dict[LogWriter, None] = {}
        self._wake = asyncio.Event()
        at = f" ({place})" if place else ""
        self._outage = Outage(f"worker {worker!r}, append not taken{at}", logger)
        self._waiting: set[LogWriter] = set()
        self._asking: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        await end(self._asking)
        await self._pipe.close()

    def mark(self, writer: LogWriter) -> None:
        """This writer has something to send."""
        if not writer.held:
            self._dirty[writer] = None
            self._wake.set()

    async def run(self) -> None:
        """Flush, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            began = loop.time()
            dirty, self._dirty = self._dirty, {}
            writers = list(dirty)
            self._counts.flushed(dirty, time.monotonic())
            try:
                await self._flush(writers)
            except TailraceError as error:
                await self._broken(writers, error)
            except Exception as error:
                # One writer's trouble must not stop the others: all of this flush is sent again, after a pause.
                logger.exception("relay: a flush failed")
                await self._broken(writers, BrokerUnavailable(type(error).__name__))
            if self._dirty:
                await asyncio.sleep(max(0.0, SPACING_S - (loop.time() - began)))

    async def _flush(self, writers: Iterable[LogWriter]) -> None:
        sending: list[tuple[LogWriter, list[Line]]] = []
        commands: list[bytes] = []
        for writer in writers:
            if writer.refusal is not None:
                continue
            if writer.lane is not self:  # its log has moved since
                writer.lane.mark(writer)
                continue
            if writer.lost:
                await self._reclaim(writer)
            command = writer.take()
            if command is not None:
                sending.append((writer, writer.sent))
                commands.append(command)
        if not commands:
            return
        self._counts.appends += len(commands)
        answers = await self._ask(commands)
        for number, ((writer, sent), answer) in enumerate(zip(sending, answers, strict=True)):
            if writer.sent is not sent:
                # It has gone to another lane meanwhile, and is acknowledged there.
                continue
            if isinstance(answer, AskError) and not isinstance(answer, MovedError):
                # By itself: a server that imports one slot, and hangs, must not stop the others.
                writer.held = True
                asking = asyncio.create_task(self._asked(writer, answer, commands[number]), name="tailrace-lane-asked")
                self._asking.add(asking)
                asking.add_done_callback(self._asking.discard)
                continue
            if isinstance(answer, NoScriptError):
                await self._broker.load(APPEND, self._place)
                self.mark(writer)
            else:
                self._heard(writer, answer)

    def _heard(self, writer: LogWriter, answer: Any) -> None:
        if isinstance(answer, Exception):
            self._failed(writer, answer)
        else:
            self._answered(writer, answer)
        if writer.pending and writer.refusal is None:
            self.mark(writer)

    async def _ask(self, commands: Sequence[bytes]) -> list[Any]:
        # Not the loop's clock: uvloop's stands still for a turn, and counts milliseconds.
        began = time.perf_counter()
        with translated():
            answers = await self._pipe.ask(commands)
        self._counts.flushes.observe(time.perf_counter() - began)
        return answers

    async def _asked(self, writer: LogWriter, error: AskError, command: bytes) -> None:
        """The log is being moved: ask the server that it has gone to."""
        sent = writer.sent
        answer: Any
        try:
            answer = await self._broker.asked(error, command, self._place, APPEND)
        except (RedisError, OSError, TimeoutError) as failure:
            answer = failure
        writer.held = False
        if writer.sent is not sent:  # acknowledged in another lane meanwhile
            writer.lane.mark(writer)
            return
        try:
            self._heard(writer, answer)
        except Exception as failure:
            logger.exception("relay: an append to a log on its way failed")
            self._later([writer], BrokerUnavailable(type(failure).__name__))

    def _answered(self, writer: LogWriter, answer: list[bytes]) -> None:
        try:
            refuse(answer)
        except Lost:
            writer.lost = True
            self.mark(writer)
        except LogRefusal as refusal:
            writer.refuse(refusal)
        else:
            writer.acknowledged()
        if self._waiting:
            self._counts.answered(writer)
            self._waiting.discard(writer)
            self._perhaps_over()

    def _perhaps_over(self) -> None:
        if all(waiting.refusal is not None for waiting in self._waiting):
            self._waiting.clear()
            self._outage.over()

    def _failed(self, writer: LogWriter, error: Exception) -> None:
        ours = in_our_words(error)
        if ours is None:
            raise error
        self._broker.doubt(error, self._place)
        self._later([writer], ours)

    async def _broken(self, writers: Iterable[LogWriter], error: TailraceError) -> None:
        """The server does not answer: another one may have its logs by now, or itself other connections."""
        if self._broker.spread:
            self._broker.doubt(error.__cause__, self._place)
            await self._pipe.close()
            self._pipe = self._broker.pipe(self._place)
        self._later(writers, error)

    def _later(self, writers: Iterable[LogWriter], error: TailraceError) -> None:
        """Nobody knows whether it landed, or there is no room for it now: the very same again, after a pause."""
        self._outage.failed(error)
        for writer in writers:
            if writer.refusal is None:
                self._counts.again(writer)
                self._waiting.add(writer)
                writer.held = True
                asyncio.get_running_loop().call_later(writer.pause(), self._release, writer)

    def _release(self, writer: LogWriter) -> None:
        writer.held = False
        if writer.lane is not self:
            self._counts.answered(writer)
            self._waiting.discard(writer)
            self._perhaps_over()
        writer.lane.mark(writer)
