"""A thousand SSE connections on one live job: what the gateway delivers, what it costs, and whether the source is slowed.

The gateway is `tailrace serve` in a process of its own, alone on its core where there are two; the connections, Redis and
the job's writer have the others. The writer appends a chunk at a time: first with nobody there, then 40, 80 and 120 a second
with all connections, two bad readers among them. Beside: Starlette's StreamingResponse with a blocked XREAD for each
connection, on uvicorn and the same loop. The floor: bare sockets that the same bytes are written to.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.cpu import Cores, cpu_ns, rss_bytes
from benchmarks.figures import Bar, Curve, Figure, Measured, figure, median
from benchmarks.gateways import Gateway, floor_gateway, naive_gateway, tailrace_gateway
from benchmarks.harness import Bench
from benchmarks.live_writer import begun
from benchmarks.loops import FASTEST, raise_file_limit
from benchmarks.processes import Child, child
from benchmarks.rows.row import Row
from benchmarks.sse_readers import Readers, sse_readers
from benchmarks.streams import kept_apart
from tailrace.joblog import Broker, connected

_CONNECTIONS: Final = 1000
_FEWER: Final = (1, 10, 100)
_MORE: Final = 5000
#: A gateway's process has a socket for each connection, the baseline two; a few for the rest.
_FILES_FOR_MORE: Final = _MORE + 1000
_RATE: Final = 40.0
_RATES: Final = (_RATE, 80.0, 120.0)
#: So many chunks a second to more connections than a thousand: their rate is less.
_MOST_OFFERED: Final = _CONNECTIONS * _RATE
#: What a few connections need, a process has lying about.
_LEAST_FOR_MEMORY: Final = 100

_OURS: Final = "tailrace"
_NAIVE: Final = "StreamingResponse + XREAD"
_FLOOR: Final = "floor"
_SIDES: Final[Mapping[str, tuple[str, Gateway]]] = {
    _OURS: ("tailrace", tailrace_gateway),
    _NAIVE: ("naive", naive_gateway),
    _FLOOR: ("naive", floor_gateway),
}
"""How the job is written, and the server."""


@dataclass(frozen=True, slots=True)
class _Timing:
    settle_s: float
    window_s: float
    windows: int


@dataclass(slots=True)
class _AtRate:
    """One side at one rate of appends; lists have an entry a window."""

    delivered_s: list[float] = field(default_factory=list[float])
    cpu_us: list[float] = field(default_factory=list[float])
    ages_ms: list[list[float]] = field(default_factory=list[list[float]])
    busy: dict[str, list[float]] = field(default_factory=dict[str, list[float]])


@dataclass(slots=True)
class _Found:
    """One side at one number of connections."""

    idle_kib: float = 0.0
    """Of the gateway, per connection that is open and waits."""
    alone_ms: list[float] = field(default_factory=list[float])
    """Of each append while nobody reads, and with all connections at the first rate."""
    read_ms: list[float] = field(default_factory=list[float])
    at: dict[float, _AtRate] = field(default_factory=dict[float, _AtRate])


@dataclass(frozen=True, slots=True)
class _Ground:
    bench: Bench
    broker: Broker
    cores: Cores
    redis_pid: int

    async def measure(self, side: str, connections: int, rates: Sequence[float], timing: _Timing) -> _Found:
        writing, gateway = _SIDES[side]
        namespace = f"gateway-{list(_SIDES).index(side)}-{connections}"
        job_id = await begun(self.bench, self.broker, namespace, writing)
        found = _Found()
        async with (
            gateway(self.bench, namespace, self.cores.worker) as serving,
            _writer(self.bench, namespace, writing, job_id) as writer,
        ):
            found.alone_ms = await _took_ms(writer, rates[0], timing.window_s * timing.windows)
            async with sse_readers(serving.stream(job_id), 1, self.cores.consumer):  # warm
                pass
            before_bytes = rss_bytes(serving.pid)
            async with sse_readers(serving.stream(job_id), connections, self.cores.consumer) as readers:
                found.idle_kib = (rss_bytes(serving.pid) - before_bytes) / 1024 / connections
                pids = {"gateway": serving.pid, "Redis": self.redis_pid, "readers": readers.pid, "writer": writer.pid}
                for rate in rates:
                    await writer.tell("rate", rate)
                    await asyncio.sleep(timing.settle_s)
                    found.at[rate] = await _windows(readers, pids, timing)
                    if rate == rates[0]:
                        found.read_ms = await _appends_ms(writer)
                ages_ms = await readers.ages_ms()
                for number, rate in enumerate(rates):  # between the windows of two rates lies one that is of neither
                    first = number * (timing.windows + 1)
                    found.at[rate].ages_ms = ages_ms[first : first + timing.windows]
        return found


@asynccontextmanager
async def _writer(bench: Bench, namespace: str, side: str, job_id: str) -> AsyncGenerator[Child]:
    """It waits until it is given a rate."""
    settings = bench.settings_table(namespace)
    configuration = {"settings": settings, "side": side, "job_id": job_id, "rate": 0, "loop": FASTEST}
    async with child("benchmarks.live_writer", configuration) as writer:
        yield writer


async def _took_ms(writer: Child, rate: float, for_s: float) -> list[float]:
    """How long appends take at this rate while nobody reads. Then it waits again."""
    await writer.tell("rate", rate)
    await asyncio.sleep(for_s)
    await writer.tell("rate", 0)
    return await _appends_ms(writer)


async def _appends_ms(writer: Child) -> list[float]:
    await writer.tell("took")
    return [int(took_ns) / 1e6 for took_ns in await writer.line()]


async def _windows(readers: Readers, pids: Mapping[str, int], timing: _Timing) -> _AtRate:
    found = _AtRate()

    async def moment() -> tuple[int, int, dict[str, int]]:
        count = await readers.count()
        return time.monotonic_ns(), count, {who: cpu_ns(pid) for who, pid in pids.items()}

    at_ns, count, used_ns = await moment()
    for _ in range(timing.windows):
        await asyncio.sleep(timing.window_s)
        (before_ns, before, before_used), (at_ns, count, used_ns) = (at_ns, count, used_ns), await moment()
        took_ns, delivered = at_ns - before_ns, count - before
        found.delivered_s.append(delivered * 1e9 / took_ns)
        found.cpu_us.append((used_ns["gateway"] - before_used["gateway"]) / 1000 / max(1, delivered))
        for who in pids:
            found.busy.setdefault(who, []).append((used_ns[who] - before_used[who]) / took_ns)
    return found


async def measure(bench: Bench) -> Measured:
    files = raise_file_limit()
    many = bench.scaled(_CONNECTIONS, 20)
    timing = _Timing(1.0, 1.0, 3) if not bench.quick else _Timing(0.1, 0.3, 1)
    rates = _RATES if not bench.quick else _RATES[:1]
    found: dict[str, dict[int, _Found]] = {side: {} for side in _SIDES}
    async with kept_apart(bench) as (cores, redis_pid), connected(bench.redis_url) as broker:
        ground = _Ground(bench, broker, cores, redis_pid)
        for side, at in found.items():
            for fewer in () if bench.quick else _FEWER:
                at[fewer] = await ground.measure(side, fewer, (_RATE,), timing)
            at[many] = await ground.measure(side, many, rates, timing)
            if side != _NAIVE and not bench.quick and files >= _FILES_FOR_MORE:
                at[_MORE] = await ground.measure(side, _MORE, (_MOST_OFFERED / _MORE,), timing)
    return Measured(_figures(found, many, full=not bench.quick), _notes(found, many), _curves(found))


def _figures(found: Mapping[str, Mapping[int, _Found]], many: int, *, full: bool) -> tuple[Figure, ...]:
    floor = {made.what: made for made in _figures_of(_FLOOR, found[_FLOOR][many], {}, {}, full=full)}
    naive = {made.what: made for made in _figures_of(_NAIVE, found[_NAIVE][many], {}, floor, full=full)}
    ours = _figures_of(_OURS, found[_OURS][many], naive, floor, full=full)
    return (*ours, *naive.values(), *floor.values())


def _figures_of(
    side: str, found: _Found, naive: Mapping[str, Figure], floor: Mapping[str, Figure], *, full: bool
) -> list[Figure]:
    figures: list[Figure] = []

    def add(what: str, rounds: Sequence[Sequence[float]], **rest: Any) -> None:
        figures.append(figure(side, what, rounds, against=naive.get(what), floor=floor.get(what), **rest))

    most = max(found.at.values(), key=lambda at: median(at.delivered_s))
    reached: dict[str, Any] = {"bar": Bar(40_000), "stretch": Bar(80_000)} if full and side == _OURS else {}
    add("delivered, at most", _rounds(most.delivered_s), unit="chunks/s", rate=True, **reached)
    for rate, at in found.at.items():
        add(f"delivered, {rate:g} appends/s", _rounds(at.delivered_s), unit="chunks/s", rate=True)
    at = found.at[_RATE]
    if any(at.ages_ms):
        add(f"sent -> delivered, {_RATE:g} appends/s", at.ages_ms)
    for rate, at in found.at.items():
        add(f"gateway CPU per delivery, {rate:g} appends/s", _rounds(at.cpu_us), unit="us")
    if full:  # a smoke run's few connections need nothing
        add("memory per idle connection", [[found.idle_kib]], unit="KiB")
    if side != _FLOOR:
        add("an append, nobody reads", [found.alone_ms])
        add(f"an append, all read, {_RATE:g} appends/s", [found.read_ms])
    return figures


def _rounds(values: Sequence[float]) -> list[list[float]]:
    return [[value] for value in values]


def _curves(found: Mapping[str, Mapping[int, _Found]]) -> tuple[Curve, ...]:
    def at_first(at: _Found) -> _AtRate:
        return next(iter(at.at.values()))

    drawn: Sequence[tuple[str, str, int, Callable[[_Found], float]]] = (
        ("sent -> delivered", "ms", 1, lambda at: median(age for ages in at_first(at).ages_ms for age in ages)),
        ("gateway CPU per delivery", "us", 1, lambda at: median(at_first(at).cpu_us)),
        ("memory per idle connection", "KiB", _LEAST_FOR_MEMORY, lambda at: at.idle_kib),
    )
    return tuple(
        Curve(side, what, unit, "connections", points)
        for what, unit, least, value in drawn
        for side, by_number in found.items()
        if len(points := tuple((number, value(at)) for number, at in sorted(by_number.items()) if number >= least)) > 1
    )


def _notes(found: Mapping[str, Mapping[int, _Found]], many: int) -> tuple[str, ...]:
    notes = [
        f"{many:,} connections that are read at once; two more, one that takes nothing and one that takes something once a "
        f"second, count for nothing; gateway and connections on {FASTEST}",
        "of the floor: how often the floor's; the floor's server does nothing but write the same bytes to every socket",
    ]
    for side, by_number in found.items():
        for rate, at in by_number[many].at.items():
            busy = ", ".join(f"{who} {median(share):.0%}" for who, share in at.busy.items())
            share = median(at.delivered_s) / (rate * many)
            notes.append(f"{side}, {rate:g} appends/s: {share:.0%} of what was offered; busy: {busy}")
    if _MORE in found[_OURS]:
        notes.append(f"curves: {_MORE:,} connections at {_MOST_OFFERED / _MORE:g} appends/s, fewer at {_RATE:g}")
    return tuple(notes)


ROW: Final = Row("gateway", "gateway SSE: 1,000 connections on one job", measure)
