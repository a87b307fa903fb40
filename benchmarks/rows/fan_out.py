"""One live job, many readers in one process: each gets each token. Beside: each reader a blocked XREAD that decodes JSON.

The job is written by a process of its own, ten tokens a second, each an append of its own whose text is when it was sent;
and beside that ten tokens in one append, ten times a second. Latency: until the body of the reader's loop has the token; a
hundred of the readers look at the clock. CPU: that of the readers' process, over all deliveries. Readers are `async for`
over `AsyncJob.stream()`, a task each. The floor: as many tasks, each woken by a future of its own, with no Redis at all.
"""

from typing import Any, Final

from benchmarks.figures import Bar, Curve, Figure, Measured, figure, median
from benchmarks.harness import Bench
from benchmarks.live_writer import begun
from benchmarks.loops import FASTEST, raise_file_limit
from benchmarks.processes import Child, child
from benchmarks.rows.row import Row
from tailrace.joblog import Broker, connected

_NAMESPACE: Final = "fan-out"
_RATE: Final = 10.0
_TENS: Final = 10
#: Connections of naive readers that a server takes at its defaults, with room for others.
_MOST_NAIVE: Final = 1000


class _Side:
    """One side at one number of readers: what its rounds gave."""

    def __init__(self, side: str, readers: int, loop: str = "asyncio", at_once: int = 1) -> None:
        self.side, self.readers, self.loop, self.at_once = side, readers, loop, at_once
        self.latency_ms: list[list[float]] = []
        self.cpu_us: list[list[float]] = []
        self.memory_kib: list[list[float]] = []

    async def round(self, bench: Bench, broker: Broker, windows: int, window_s: float) -> None:
        floor = self.side == "floor"
        configuration: dict[str, Any] = {
            "settings": bench.settings_table(_NAMESPACE),
            "side": self.side,
            "job_id": "none" if floor else await begun(bench, broker, _NAMESPACE, self.side),
            "readers": self.readers,
            "loop": self.loop,
            "rate": _RATE,
            "at_once": self.at_once,
            "windows": windows,
            "window_s": window_s,
        }
        async with child("benchmarks.readers", configuration) as readers:
            _, taken_bytes = await readers.line()
            self.memory_kib.append([int(taken_bytes) / 1024 / self.readers])
            if floor:
                await self._take(readers, windows)
                return
            async with child("benchmarks.live_writer", configuration):
                await self._take(readers, windows)

    async def _take(self, readers: Child, windows: int) -> None:
        for _ in range(windows):
            used_ns, delivered, *latencies_ns = map(int, await readers.line())
            self.cpu_us.append([used_ns / 1000 / delivered])
            self.latency_ms.append([latency / 1e6 for latency in latencies_ns])


async def measure(bench: Bench) -> Measured:
    raise_file_limit()
    many, rounds = bench.scaled(1000, 20), bench.scaled(3, 1)
    ours, faster = _Side("tailrace", many), _Side("tailrace", many, FASTEST)
    tens, faster_tens = _Side("tailrace", many, at_once=_TENS), _Side("tailrace", many, FASTEST, at_once=_TENS)
    floor, faster_floor = _Side("floor", many), _Side("floor", many, FASTEST)
    naive = _Side("naive", many)
    more = [] if bench.quick else [_Side("tailrace", count) for count in (1, 10, 100, 5000)]
    more_naive = [_Side("naive", side.readers) for side in more if side.readers <= _MOST_NAIVE]
    window_s = 2.0 if not bench.quick else 0.3
    each_round = [ours, naive, floor, tens, *(() if bench.quick else (faster, faster_floor, faster_tens))]
    async with connected(bench.redis_url) as broker:
        for _ in range(rounds):
            for side in each_round:
                await side.round(bench, broker, 1, window_s)
        for side in (*more, *more_naive):
            await side.round(bench, broker, 1, window_s)
    bars = not bench.quick
    of_naive, of_floor = _figures("naive", naive, ""), _figures("floor", floor, ", woken (asyncio)")
    figures = [
        *_figures("tailrace", ours, " (asyncio)", of_naive, of_floor, bars=bars),
        *_figures("tailrace", tens, ", tokens in tens (asyncio)", of_naive, bars=bars),
        *of_naive,
        *of_floor,
    ]
    if not bench.quick:
        of_faster_floor = _figures("floor", faster_floor, f", woken ({FASTEST})")
        figures += [
            *_figures("tailrace", faster, f" ({FASTEST})", of_naive, of_faster_floor, bars=True),
            *_figures("tailrace", faster_tens, f", tokens in tens ({FASTEST})", of_naive, bars=True),
            *of_faster_floor,
        ]
    return Measured(
        tuple(figures),
        (
            f"{many:,} readers, {_RATE:g} tokens a second; naive: a connection, a blocked XREAD and JSON for each reader",
            f"tokens in tens: {_TENS} tokens an append, {_RATE:g} appends a second",
            f"floor: {many:,} tasks that each wait for a future of their own, all woken {_RATE:g} times a second",
        ),
        (*_curves("tailrace", [ours, *more]), *_curves("naive", [naive, *more_naive])),
    )


def _figures(
    subject: str,
    side: _Side,
    told: str,
    against: tuple[Figure, ...] | None = None,
    floor: tuple[Figure, ...] | None = None,
    *,
    bars: bool = False,
) -> tuple[Figure, ...]:
    """Latency, CPU; and memory, which a task that is only woken hardly needs."""
    kinds: list[tuple[str, str, list[list[float]], Bar | None, Bar | None]] = [
        ("sent -> delivered", "ms", side.latency_ms, Bar(2), Bar(0.5)),
        ("CPU per delivery", "us", side.cpu_us, Bar(1), Bar(0.3)),
        ("memory per idle reader", "KiB", side.memory_kib, None, None),
    ]
    if side.side == "floor":
        kinds.pop()
    return tuple(
        figure(
            subject,
            what + told,
            rounds,
            unit=unit,
            bar=bar if bars else None,
            stretch=stretch if bars else None,
            against=None if against is None else against[number],
            floor=None if floor is None or number >= len(floor) else floor[number],
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
