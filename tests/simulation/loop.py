"""A deterministic event loop: virtual time, no I/O, and several processes that are chosen among by chance.

Callbacks of one process run in the order in which they became ready, as asyncio promises; which process runs next is
the seed's choice. A process can be frozen (SIGSTOP: its callbacks and timers wait while time goes on) and killed (the
same for ever; its tasks are cleared away when the world ends).
"""

import asyncio
import contextvars
import heapq
import random
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, Final, TypeVar

T = TypeVar("T")
Connect = Callable[["Process", asyncio.BaseProtocol], Coroutine[Any, Any, asyncio.Transport]]

_PROCESS: Final[contextvars.ContextVar["Process"]] = contextvars.ContextVar("process")


class Stuck(AssertionError):
    """Nothing can happen any more, or the time is over."""


class Callback(asyncio.TimerHandle):
    """A callback that knows its process."""

    __slots__ = ("process",)

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: "SimulatedLoop",
        context: contextvars.Context,
        process: "Process",
    ) -> None:
        # Not the parent's, which looks at debug settings first: this runs for every step of every task.
        self._callback, self._args, self._loop = callback, args, loop
        self._context, self._cancelled, self._repr, self._source_traceback = context, False, None, None
        self._when, self._scheduled = when, False
        self.process = process

    def cancel(self) -> None:
        self._cancelled = True


class Process:
    """Callbacks that live, stop and die together."""

    def __init__(self, loop: "SimulatedLoop", name: str) -> None:
        self.loop, self.name = loop, name
        self.ready: deque[Callback] = deque()
        self.held = False
        """Frozen, or dead."""
        self.dead = False
        self.clock_ahead_s = 0.0
        self.tasks: list[asyncio.Task[Any]] = []
        """All that are not done, and some that are: what nobody else refers to would be collected while it waits."""
        self._prune_at = 64
        self.context = contextvars.copy_context()
        self.context.run(_PROCESS.set, self)

    def start(self, coroutine: Coroutine[Any, Any, T], *, name: str | None = None) -> asyncio.Task[T]:
        """A task of this process."""
        return self.loop.create_task(coroutine, name=name, context=self.context.copy())

    def later(self, delay_s: float, callback: Callable[..., object], *args: Any) -> Callback:
        return self.loop.call_at(self.loop.now + delay_s, callback, *args, context=self.context)

    def at(self, when: float, callback: Callable[..., object], *args: Any) -> Callback:
        return self.loop.call_at(when, callback, *args, context=self.context)

    def freeze(self) -> None:
        self.held = True
        self.loop.hold(self)

    def thaw(self) -> None:
        if not self.dead:
            self.held = False
            self.loop.offer(self)

    def kill(self) -> None:
        self.dead = True
        self.freeze()

    def raise_the_dead(self) -> None:
        """For clearing away what it left."""
        self.dead = False
        self.thaw()

    def keep(self, task: asyncio.Task[Any]) -> None:
        self.tasks.append(task)
        if len(self.tasks) > self._prune_at:
            self.tasks = [task for task in self.tasks if not task.done()]
            self._prune_at = 2 * len(self.tasks) + 64


class _Task(asyncio.Task[T]):
    """Hashes by the order of making, not by its address: sets of tasks have one order in every run of a seed."""

    number = 0

    def __hash__(self) -> int:
        return self.number


class SimulatedLoop(asyncio.AbstractEventLoop):
    """The part of asyncio's loop that tailrace and redis-py use."""

    def __init__(self, chance: random.Random) -> None:
        self.now = 0.0
        self.steps = 0
        self._chance = chance
        self._timers: list[tuple[float, int, Callback]] = []
        self._number = 0
        self._runnable: list[Process] = []
        self._closed = False
        self.hosts: dict[str, Connect] = {}
        """Who answers to which name."""
        self.errors: list[dict[str, Any]] = []
        """What nobody caught."""
        self.outside = Process(self, "outside")

    # What the simulation calls.

    def run_until(self, done: Callable[[], bool], *, at_most_s: float) -> bool:
        """Run until `done()`, which is asked whenever the time moves on; False if the time is over first."""
        return self._run(done, self.now + at_most_s)

    def hold(self, process: Process) -> None:
        if process in self._runnable:
            self._runnable.remove(process)

    def offer(self, process: Process) -> None:
        if process.ready and process not in self._runnable:
            self._runnable.append(process)

    def _run(self, done: Callable[[], bool], end: float) -> bool:
        runnable, timers, chance = self._runnable, self._timers, self._chance.random
        asyncio._set_running_loop(self)  # what every event loop does
        try:
            while True:
                while runnable:
                    process = runnable[int(chance() * len(runnable))] if len(runnable) > 1 else runnable[0]
                    callback = process.ready.popleft()
                    if not process.ready:
                        runnable.remove(process)
                    if not callback._cancelled:
                        self.steps += 1
                        callback._run()
                    if self.errors:
                        raise self._uncaught()
                if done():
                    return True
                while timers and timers[0][2]._cancelled:
                    heapq.heappop(timers)
                if not timers or timers[0][0] > end:
                    if timers:
                        self.now = end
                    return False
                self.now = max(self.now, timers[0][0])
                while timers and timers[0][0] <= self.now:
                    self._enqueue(heapq.heappop(timers)[2])
        finally:
            asyncio._set_running_loop(None)

    def _uncaught(self) -> BaseException:
        context, error = self.errors[0], self.errors[0].get("exception")
        self.errors.clear()
        if isinstance(error, AssertionError):  # a check's: what is wrong, in its own words
            return error
        stuck = Stuck(f"nobody caught: {context}")
        stuck.__cause__ = error
        return stuck

    def _enqueue(self, callback: Callback) -> None:
        process = callback.process
        process.ready.append(callback)
        if len(process.ready) == 1 and not process.held:
            self._runnable.append(process)

    # What asyncio calls.

    def time(self) -> float:
        return self.now

    def call_soon(  # type: ignore[override]  # without typeshed's TypeVarTuple
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Callback:
        if context is None:
            context = contextvars.copy_context()
        process = context.get(_PROCESS, self.outside)
        handle = Callback(0.0, callback, args, self, context, process)
        process.ready.append(handle)
        if len(process.ready) == 1 and not process.held:
            self._runnable.append(process)
        return handle

    def call_soon_threadsafe(  # type: ignore[override]  # without typeshed's TypeVarTuple
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Callback:
        return self.call_soon(callback, *args, context=context)

    def call_at(  # type: ignore[override]  # without typeshed's TypeVarTuple
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Callback:
        if context is None:
            context = contextvars.copy_context()
        handle = Callback(when, callback, args, self, context, context.get(_PROCESS, self.outside))
        self._number += 1
        heapq.heappush(self._timers, (when, self._number, handle))
        return handle

    def call_later(  # type: ignore[override]  # without typeshed's TypeVarTuple
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Callback:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]  # no eager_start
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: contextvars.Context | None = None
    ) -> asyncio.Task[T]:
        if context is None:
            context = contextvars.copy_context()
        task: asyncio.Task[T] = _Task(coro, loop=self, name=name or "task", context=context)
        self._number += 1
        task.number = self._number  # type: ignore[attr-defined]  # _Task's
        context.get(_PROCESS, self.outside).keep(task)
        return task

    def run_in_executor(  # type: ignore[override]  # done at once: there are no threads
        self,
        executor: Executor | None,  # noqa: ARG002  # asyncio's name for it
        func: Callable[..., T],
        *args: Any,
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = asyncio.Future(loop=self)
        try:
            future.set_result(func(*args))
        except Exception as error:  # the caller's
            future.set_exception(error)
        return future

    async def create_connection(  # type: ignore[override]  # as asyncio.open_connection calls it
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], host: str, *_: Any, **__: Any
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        protocol = protocol_factory()
        transport = await self.hosts[host](current_process(), protocol)
        return transport, protocol

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(context)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(context)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        self._closed = True
        self._timers.clear()

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Called by a TimerHandle's own cancel, which `Callback` replaces."""


def simulated_loop(chance: random.Random) -> SimulatedLoop:
    """A loop. (It is abstract to type checkers: what nobody calls is not there.)"""
    kind: Any = SimulatedLoop
    return kind(chance)  # type: ignore[no-any-return]  # a SimulatedLoop


def current_process() -> Process:
    """Whose callback runs now."""
    return _PROCESS.get()
