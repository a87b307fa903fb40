"""What every command that serves has: a loop, its signals, its log, a look at the server first."""

import asyncio
import gc
import logging
import signal
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final, TypeVar

from tailrace.joblog import connected_by
from tailrace.joblog.all_servers import require_servers
from tailrace.schemas import Settings
from tailrace.telemetry.logs import log_to_stderr
from tailrace.telemetry.tracing_sdk import traces

logger = logging.getLogger("tailrace.worker")

T = TypeVar("T")

#: Between two looks of the garbage collector at what is new.
_NEW_OBJECTS: Final = 10_000


@contextmanager
def observed(settings: Settings, service: str | None) -> Generator[None]:
    """Logs to standard error as the settings say, and traces as the environment says, while the block lasts.

    `service` names the process in traces, unless `OTEL_SERVICE_NAME` does; None: it makes none. Raises: InvalidRequest.
    """
    log_to_stderr(settings.log_format, settings.log_level, jobs=settings.log_jobs, access=settings.log_access)
    with nullcontext() if service is None else traces(service):
        yield


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run it to its end, on uvloop where that is installed."""
    collect_rarely()
    make: Callable[[], asyncio.AbstractEventLoop] | None = None
    if find_spec("uvloop") is not None:
        make = import_module("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=make) as runner:
        return runner.run(main)


def collect_rarely() -> None:
    """Of a process that only serves: the garbage collector's looks at a thousand jobs at a time were a fifth of all work."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS)


def with_server(settings: Settings) -> Settings:
    """The settings with a server in them: the embedded one, started if need be, where they name none."""
    if settings.redis_url is not None:
        return settings
    from tailrace.joblog.embedded import embedded_url  # who has a server never needs it

    return settings.model_copy(update={"redis_url": embedded_url()})


async def require_server(settings: Settings) -> None:
    """Look at every server before anything is served. One of a cluster's that is away is a warning: the others' jobs go on.

    Raises: BrokerUnavailable, BrokerUnsuitable with its cure.
    """
    async with connected_by(settings) as broker:
        found = await require_servers(broker, settings.keys)
        for name, finding in found:
            if finding.level != "ok":
                where = f"Redis, {name}" if len(found.each) > 1 else "Redis"
                logger.warning("%s: %s (%s)", where, finding.what, finding.cure)


@contextmanager
def on_signals(stop: Callable[[signal.Signals], None]) -> Generator[None]:
    """SIGTERM and SIGINT call `stop`, in the loop, for as long as the block lasts."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, stop, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
