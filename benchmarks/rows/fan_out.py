"""One live job, many readers in one process: each gets each token. Beside: each reader a blocked XREAD that decodes JSON.

The job is written by a process of its own, ten tokens a second, each an append of its own whose text is when it was sent.
Latency: until the body of the reader's loop has the token; a hundred of the readers look at the clock. CPU: that of the
readers' process, over all deliveries. Readers are `async for` over `AsyncJob.stream()`, a task each.
"""

from typing import Any, Final

from benchmarks.figures import Bar, Curve, Figure, Measured, figure, median
from benchmarks.harness import Bench
from benchmarks.live_writer import naive_token
from benchmarks.logs import Pen
from benchmarks.loops import FASTEST, raise_file_limit
from benchmarks.processes import child
from benchmarks.rows.row import Row
from tailrace.joblog import Broker, connected

_RATE: Final = 10.0
#: Connections of naive readers that a server takes at its defaults, with room for others.
_MOST_NAIVE: Final = 1000


class _Side:
    """One side at one number of readers: what its rounds gave."""

    def __init__(self, side: str, readers: int, loop: str = "asyncio") -> None:
        self.side, self.readers, self.loop = side, readers, loop
        self.latency_ms: list[list[float]] = []
        self.cpu_us: list[list[float]] = []
        self.memory_kib: list[list[float]] = []

    async def round(self, bench: Bench, broker: Broker, windows: int, window_s: float) -> None:
        configuration: dict[str, Any] = {
            "settings": bench.settings_table("fan-out"),
            "side": self.side,
            "job_id": await self._job(bench, broker),
            "readers": self.readers,
            "loop": self.loop,
            "rate": _RATE,
            "windows": windows,
            "window_s": window_s,
        }
        async with child("benchmarks.readers", configuration) as readers:
            _, taken_bytes = await readers.line()
            self.memory_kib.append([int(taken_bytes) / 1024 / self.readers])
            async with child("benchmarks.live_writer", configuration):
                for _ in range(windows):
                    used_ns, delivered, *latencies_ns = map(int, await readers.line())
                    self.cpu_us.append([used_ns / 1000 / delivered])
                    self.latency_ms.append([latency / 1e6 for latency in latencies_ns])

    async def _job(self, bench: Bench, broker: Broker) -> str:
        """A job with a token in it: who has got that is there."""
        if self.side == "naive":
            key = f"bench-fan-out-naive-{self.readers}"
            await broker.call("XADD", key, "*", "data", naive_token(key, "0"))
            await broker.call("EXPIRE", key, 3600)
            return key
        pen = await Pen.submitted(broker, bench.settings("fan-out").keys)
        await pen.write(["0"])
        return pen.job_id


async def measure(bench: Bench) -> Measured:
    raise_file_limit()
    many, rounds = bench.scaled(1000, 20), bench.scaled(3, 1)
    ours = _Side("tailrace", many)
    faster = _Side("tailrace", many, FASTEST)
    naive = _Side("naive", many)
    more = [] if bench.quick else [_Side("tailrace", count) for count in (1, 10, 100, 5000)]
    more_naive = [_Side("naive", side.readers) for side in more if side.readers <= _MOST_NAIVE]
    window_s = 2.0 if not bench.quick else 0.3
    async with connected(bench.redis_url) as broker:
        for _ in range(rounds):
            for side in (ours, naive) if bench.quick else (ours, naive, faster):
                await side.round(bench, broker, 1, window_s)
        for side in (*more, *more_naive):
            await side.round(bench, broker, 1, window_s)
    of_naive = _figures("naive", naive, "", None)
    figures = (
        *_figures("tailrace", ours, "", of_naive, bars=not bench.quick),
        *(() if bench.quick else _figures("tailrace", faster, f", {faster.loop}", of_naive, bars=True)),
        *of_naive,
    )
    return Measured(
        figures,
        (
            f"{many:,} readers, {_RATE:g} tokens a second; naive: a connection, a blocked XREAD and JSON for each reader",
        ),
        (*_curves("tailrace", [ours, *more]), *_curves("naive", [naive, *more_naive])),
    )


def _figures(
    subject: str, side: _Side, told: str, against: tuple[Figure, ...] | None, *, bars: bool = False
) -> tuple[Figure, ...]:
    """Latency, CPU, memory."""
    kinds: list[tuple[str, str, list[list[float]], Bar | None, Bar | None]] = [
        ("sent -> delivered", "ms", side.latency_ms, Bar(2), Bar(0.5)),
        ("CPU per delivery", "us", side.cpu_us, Bar(1), Bar(0.3)),
        ("memory per idle reader", "KiB", side.memory_kib, None, None),
    ]
    return tuple(
        figure(
            subject,
            what + told,
            rounds,
            unit=unit,
            bar=bar if bars else None,
            stretch=stretch if bars else None,
            against=None if against is None else against[number],
        )
        for number, (what, unit, rounds, bar, stretch) in enumerate(kinds)
    )


def _curves(subject: str, sides: list[_Side]) -> tuple[Curve, ...]:
    ordered = sorted(sides, key=lambda side: side.readers)
    latency = tuple((side.readers, _middle(side.latency_ms)) for side in ordered)
    cpu = tuple((side.readers, _middle(side.cpu_us)) for side in ordered)
    return (
        Curve(subject, "sent -> delivered", "ms", "readers", latency),
        Curve(subject, "CPU per delivery", "us", "readers", cpu),
    )


def _middle(rounds: list[list[float]]) -> float:
    return median(sample for samples in rounds for sample in samples)


ROW: Final = Row("fan-out", "many readers of one job in one process", measure)
