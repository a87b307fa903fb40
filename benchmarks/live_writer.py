"""The writer of a live job as a process of the benchmarks: tokens at a steady rate, whose text is when they were sent.

`tailrace`: by the append script, into a log that it claims, one token an append or several. Any other side: XADD of a JSON
object a token.
"""

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.harness import Bench
from benchmarks.logs import Pen
from benchmarks.loops import Orders, run_child
from benchmarks.processes import say
from tailrace import Settings
from tailrace.joblog import Broker, connected


class _Writing:
    """Writes at a rate that can be changed; notes how long each append took."""

    def __init__(self, write: Callable[[str], Awaitable[Any]], rate: float) -> None:
        self._write, self._rate = write, rate
        self._changed = asyncio.Event()
        self._took_ns: list[int] = []

    async def set_rate(self, rate: str) -> None:
        """Appends a second from now on; 0: none."""
        self._rate = float(rate)
        self._changed.set()

    async def took(self) -> None:
        """Say how long the appends took since this was asked last."""
        took_ns, self._took_ns = self._took_ns, []
        say(*took_ns)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            while not (rate := self._rate):
                self._changed.clear()
                await self._changed.wait()
                due = loop.time()
            began_ns = time.monotonic_ns()
            await self._write(str(began_ns))
            self._took_ns.append(time.monotonic_ns() - began_ns)
            due = max(due + 1 / rate, loop.time())
            await asyncio.sleep(due - loop.time())


async def _main(orders: Orders) -> None:
    configuration = orders.configuration
    settings = Settings.model_validate(configuration["settings"])
    at_once = configuration.get("at_once", 1)
    async with connected(configuration["settings"]["redis_url"]) as broker:
        if configuration["side"] == "tailrace":
            write = _appending(await Pen.claim(broker, settings.keys, configuration["job_id"]), at_once)
        else:
            write = _adding(broker, configuration["job_id"])
        writing = _Writing(write, configuration["rate"])
        orders.on("rate", writing.set_rate)
        orders.on("took", writing.took)
        say("ready")
        await writing.run()


def _appending(pen: Pen, at_once: int) -> Callable[[str], Awaitable[Any]]:
    return lambda text: pen.write([text] * at_once)


def _adding(broker: Broker, key: str) -> Callable[[str], Awaitable[Any]]:
    return lambda text: broker.call("XADD", key, "*", "data", naive_token(key, text))


def naive_token(job_id: str, text: str) -> str:
    """A token as a JSON object: what is written where nobody has thought of the size."""
    return json.dumps({"type": "token", "job_id": job_id, "content": text, "ts": time.time()})


# The benchmark's side.


async def begun(bench: Bench, broker: Broker, namespace: str, side: str) -> str:
    """A job with a token in it, for a writer: who has got that is there. Its id, or the stream's name."""
    if side == "tailrace":
        pen = await Pen.submitted(broker, bench.settings(namespace).keys)
        await pen.write(["0"])
        return pen.job_id
    key = f"bench-{namespace}-naive-{uuid.uuid4().hex}"
    await broker.call("XADD", key, "*", "data", naive_token(key, "0"))
    await broker.call("EXPIRE", key, 3600)
    return key


if __name__ == "__main__":
    run_child(_main)
