"""What a job takes of the server's memory, while it runs and after its end. Beside: a JSON object in one field a token.

By MEMORY USAGE of all keys of a job (log, request, queue entry's payload; then tombstone, request, snapshot), and, as a check,
by how much the server's used_memory grows with many jobs, which has everything in it. The text is English prose in pieces
of some four characters; a snapshot is deflated, so that other text gives other figures. Measured on a server of its own, with
`stream-node-max-bytes 1024` (what tailrace's embedded server and its compose file set) and with the server's default, 4096.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from benchmarks.figures import Bar, Curve, Figure, Measured, figure, median
from benchmarks.harness import Bench
from benchmarks.live_writer import naive_token
from benchmarks.logs import Pen, characters_a_token, tokens
from benchmarks.rows.row import Row
from tailrace.joblog import Broker, connected
from tailrace.joblog.embedded import EmbeddedServer
from tailrace.queue import payload_key
from tailrace.schemas import Keys

_KEYS: Final = Keys("bench-memory")
_NODE_BYTES: Final = 1024
_DEFAULT_NODE_BYTES: Final = 4096
#: The table's own job.
_LENGTH: Final = 1000
_SHORT: Final = (1, 20, 200)
_CURVE: Final = (10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)


class _Shelf:
    """Jobs on one server, and what they take."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._naive = 0

    async def node_bytes(self, size: int) -> None:
        await self._broker.call("CONFIG", "SET", "stream-node-max-bytes", size)

    async def job(self, length: int, *, skip: int = 0) -> tuple[int, int]:
        """The bytes of a job's keys when all is written, and after its end."""
        pen = await Pen.submitted(self._broker, _KEYS)
        await pen.write_all(tokens(length, skip=skip))
        live = await self._usage(pen.job_id)
        await pen.finish()
        return live, await self._usage(pen.job_id)

    async def naive(self, length: int) -> int:
        """The same for a stream of JSON objects."""
        self._naive += 1
        key = f"bench-memory-naive-{self._naive}"
        texts = tokens(length)
        for at in range(0, length, 1000):
            adds = [("XADD", key, "*", "data", naive_token(key, text)) for text in texts[at : at + 1000]]
            await self._broker.many(adds)
        return await self._usage_of([key])

    async def used(self, jobs: int) -> tuple[float, float]:
        """By how much used_memory grows with each of so many jobs of the table's length: running, ended."""
        before = await self._used_memory()
        pens = [await Pen.submitted(self._broker, _KEYS) for _ in range(jobs)]
        for number, pen in enumerate(pens):
            await pen.write_all(tokens(_LENGTH, skip=number * _LENGTH))
        live = await self._used_memory() - before
        for pen in pens:
            await pen.finish()
        return live / jobs, (await self._used_memory() - before) / jobs

    async def _usage(self, job_id: str) -> int:
        names = (_KEYS.log(job_id), _KEYS.request(job_id), _KEYS.snapshot(job_id), payload_key(_KEYS, job_id))
        return await self._usage_of(names)

    async def _usage_of(self, names: Sequence[str]) -> int:
        usages: list[Any] = await self._broker.many([("MEMORY", "USAGE", name, "SAMPLES", 0) for name in names])
        return sum(usage for usage in usages if usage is not None)

    async def _used_memory(self) -> int:
        answer: Any = await self._broker.call("INFO", "memory")
        return int(answer["used_memory"])


@asynccontextmanager
async def _shelf() -> AsyncGenerator[_Shelf]:
    server = EmbeddedServer(private=True)
    await asyncio.to_thread(server.__enter__)
    try:
        async with connected(server.url) as broker:
            yield _Shelf(broker)
    finally:
        await asyncio.to_thread(server.__exit__, None, None, None)


async def measure(bench: Bench) -> Measured:
    length, samples, many = bench.scaled(_LENGTH, 100), bench.scaled(5, 1), bench.scaled(200, 3)
    ours: list[Figure] = []
    per_job: list[Figure] = []
    async with _shelf() as shelf:
        await shelf.node_bytes(_DEFAULT_NODE_BYTES)
        naive = figure("naive", "JSON in one field, per token", [[await shelf.naive(length) / length]], unit="B")
        for node_bytes in (_NODE_BYTES, _DEFAULT_NODE_BYTES):
            await shelf.node_bytes(node_bytes)
            told = "" if node_bytes == _NODE_BYTES else f", nodes of {node_bytes}"
            taken = [await shelf.job(length, skip=number * length) for number in range(samples)]
            ours += _live_and_ended(f"per token{told}", [(a / length, b / length) for a, b in taken], naive, bench)
            for short in _SHORT:
                per_job += _live_and_ended(f"job of {short}{told}", [await shelf.job(short)])
        await shelf.node_bytes(_NODE_BYTES)
        used = [tuple(size / _LENGTH for size in await shelf.used(many))]
        ours += _live_and_ended("per token, by used_memory", used)
        curves = await _curves(shelf, (10, 100) if bench.quick else _CURVE)
    return Measured(
        (*ours, naive, *per_job),
        (
            f"a job of {length:,} tokens of {characters_a_token():.1f} characters",
            f"used_memory: of {many} jobs of {_LENGTH:,} tokens, with the index, the queue and the hand-off in it",
        ),
        curves,
    )


def _live_and_ended(
    what: str, taken: Sequence[Sequence[float]], against: Figure | None = None, bench: Bench | None = None
) -> list[Figure]:
    bars: list[dict[str, Any]] = [{"bar": Bar(30), "stretch": Bar(24)}, {"bar": Bar(8), "stretch": Bar(4)}]
    if bench is None or bench.quick:
        bars = [{}, {}]
    return [
        figure("tailrace", f"{state}, {what}", [[pair[n] for pair in taken]], unit="B", against=against, **bars[n])
        for n, state in enumerate(("live", "ended"))
    ]


async def _curves(shelf: _Shelf, lengths: Sequence[int]) -> tuple[Curve, ...]:
    points: dict[str, list[tuple[float, float]]] = {"live": [], "ended": [], "JSON in one field": []}
    for length in lengths:
        # A short job is as large as its text happens to be compressible: the middle of a few.
        sizes = [await shelf.job(length, skip=number * length) for number in range(5 if length <= 1000 else 1)]
        points["live"].append((length, median(live for live, _ in sizes) / length))
        points["ended"].append((length, median(ended for _, ended in sizes) / length))
        points["JSON in one field"].append((length, await shelf.naive(length) / length))
    return tuple(
        Curve("naive" if what.startswith("JSON") else "tailrace", what, "B", "tokens", tuple(taken))
        for what, taken in points.items()
    )


ROW: Final = Row("memory", "the server's memory per token", measure)
