"""The writer of a live job as a process of the benchmarks: a token at a steady rate, whose text is when it was sent.

`tailrace`: by the append script, into a log that it claims. `naive`: XADD of a JSON object a token.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.logs import Pen
from benchmarks.loops import Orders, run_child
from benchmarks.processes import say
from tailrace import Settings
from tailrace.joblog import Broker, connected


async def _main(orders: Orders) -> None:
    configuration = orders.configuration
    settings = Settings.model_validate(configuration["settings"])
    async with connected(configuration["settings"]["redis_url"]) as broker:
        if configuration["side"] == "naive":
            write = _adding(broker, configuration["job_id"])
        else:
            write = _appending(await Pen.claim(broker, settings.keys, configuration["job_id"]))
        say("ready")
        await _steadily(configuration["rate"], write)


def _appending(pen: Pen) -> Callable[[], Awaitable[Any]]:
    return lambda: pen.write([_now()])


def _adding(broker: Broker, key: str) -> Callable[[], Awaitable[Any]]:
    return lambda: broker.call("XADD", key, "*", "data", naive_token(key, _now()))


def naive_token(job_id: str, text: str) -> str:
    """A token as a JSON object: what is written where nobody has thought of the size."""
    return json.dumps({"type": "token", "job_id": job_id, "content": text, "ts": time.time()})


def _now() -> str:
    return str(time.monotonic_ns())


async def _steadily(rate: float, write: Callable[[], Awaitable[Any]]) -> None:
    loop = asyncio.get_running_loop()
    due = loop.time()
    while True:
        await write()
        due = max(due + 1 / rate, loop.time())
        await asyncio.sleep(due - loop.time())


if __name__ == "__main__":
    run_child(_main)
