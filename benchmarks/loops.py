"""The frame of a child process whose event loop the benchmark chooses, and that it tells things while it runs."""

import asyncio
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from json import loads
from typing import Any, Final

from benchmarks.cpu import pin
from benchmarks.processes import Child, say

#: What a worker from the command line runs on.
FASTEST: Final = "asyncio" if find_spec("uvloop") is None else "uvloop"

Order = Callable[..., Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Orders:
    """What a child does when it is told to: `<name> <words>` on its standard input."""

    configuration: dict[str, Any]
    by_name: dict[str, Order]

    def on(self, name: str, order: Order) -> None:
        self.by_name[name] = order


def answer_at_once(words: Callable[[], tuple[object, ...]]) -> None:
    """Say these words whenever `asked_at_once` asks, between any two steps of the program: a full event loop would let an
    order wait for many seconds."""

    def answer(*_: object) -> None:
        say(*words())

    signal.signal(signal.SIGUSR1, answer)


async def asked_at_once(asked: Child) -> list[str]:
    """What a child answers that has called `answer_at_once`."""
    os.kill(asked.pid, signal.SIGUSR1)
    return await asked.line()


def write_at_once(transport: asyncio.Transport, descriptor: int, data: bytes) -> None:
    """As the transport's write, at the cost of the system call."""
    if not transport.get_write_buffer_size() and not transport.is_closing():
        with suppress(OSError):  # no room, or the peer is gone: the transport knows what to do
            data = data[os.write(descriptor, data) :]
    if data:
        transport.write(data)


def raise_file_limit() -> int:
    """As many open files as this process may have; for its children too. How many that is."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def run_child(main: Callable[[Orders], Coroutine[Any, Any, None]]) -> None:
    """Run `main` until the benchmark ends or says so by SIGTERM.

    The configuration is the first line of the standard input. Of it `loop` and `cores` are looked at here.
    """
    configuration: dict[str, Any] = loads(sys.stdin.buffer.readline())
    pin(os.getpid(), configuration.get("cores", ()))
    make: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if configuration.get("loop", "asyncio") == "uvloop":
        make = import_module("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=make) as runner:
        runner.run(_until_told(main, Orders(configuration, {})))


async def _until_told(main: Callable[[Orders], Coroutine[Any, Any, None]], orders: Orders) -> None:
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    tasks = [asyncio.create_task(work) for work in (main(orders), _obey(orders), over.wait())]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def _obey(orders: Orders) -> None:
    """Carry out order after order, until there is nobody to give one."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        name, *words = line.decode().split()
        await orders.by_name[name](*words)
