"""What a token costs the worker that relays it: from the upstream's bytes to the acknowledged append.

A thousand streams at ten tokens a second, all of them open and flowing; a curve over fewer and more. Beside: the naive
design's worker; the openai package reading the same streams and doing nothing with them, typed and raw; the floor. Each side
is one process, alone on its core where there are two; the upstream, Redis and the benchmark have the others. No reader
follows here, the row `delivery` has them.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.deliveries import through_naive, through_tailrace
from benchmarks.direct import direct
from benchmarks.figures import Bar, Curve, Figure, Measured, figure, median
from benchmarks.floor import floor, redis_benchmark
from benchmarks.harness import Bench
from benchmarks.loops import FASTEST, raise_file_limit
from benchmarks.naive import naive
from benchmarks.relay_worker import tailrace
from benchmarks.rows.row import Row
from benchmarks.streams import OPEN_S, Ground, Side, Steady, Timing, ground, steady

_STREAMS: Final = 1000
_FEWER: Final = (1, 10, 100)
_MORE: Final = 5000
_RATE: Final = 10.0
_MOST_TOKENS_A_S: Final = _STREAMS * _RATE
#: A side's process has a socket for each stream, and so has the upstream; a few for the rest.
_FILES_FOR_MORE: Final = _MORE + 1000


#: What a few streams need, a process has lying about.
_LEAST_FOR_MEMORY: Final = 100
#: A side that gets through with more or less than that of what is due has a backlog: its tokens cost less, in larger bites.
_IN_STEP: Final = 0.03


@dataclass(frozen=True, slots=True)
class _Subject:
    subject: str
    told: str
    """Beyond the subject's name: which of its ways."""
    side: Side
    curve: bool = True


_TAILRACE: Final = "tailrace"
_PUSH: Final = "tailrace-push"
_SUBJECTS: Final[Mapping[str, _Subject]] = {
    _TAILRACE: _Subject("tailrace", f" ({FASTEST})", tailrace(FASTEST)),
    _PUSH: _Subject("tailrace", f", transport push ({FASTEST})", tailrace(FASTEST, "push")),
    "tailrace-asyncio": _Subject("tailrace", " (asyncio)", tailrace("asyncio"), curve=False),
    "tailrace-push-asyncio": _Subject(
        "tailrace", ", transport push (asyncio)", tailrace("asyncio", "push"), curve=False
    ),
    "naive": _Subject("arq + XADD", "", naive),
    "typed": _Subject("openai package", ", typed parse, no append", direct("typed", "asyncio")),
    "raw": _Subject("openai package", f", raw bytes, no append ({FASTEST})", direct("raw", FASTEST)),
    "floor": _Subject("floor", ", bare sockets, XADD", floor("relay")),
    "append": _Subject("floor", ", XADD of made-up tokens", floor("append"), curve=False),
}


def sides() -> dict[str, Side]:
    """All that can be measured this way, by name."""
    named = {key: subject.side for key, subject in _SUBJECTS.items()}
    return {
        **named,
        "delivery": through_tailrace(),
        "delivery-push": through_tailrace("push"),
        "delivery-naive": through_naive,
    }


async def measure(bench: Bench) -> Measured:
    files = raise_file_limit()
    streams = bench.scaled(_STREAMS, 20)
    timing = Timing(settle_s=1.0, window_s=1.0, windows=5) if not bench.quick else Timing(0.1, 1.0, 1)
    found: dict[str, dict[int, Steady]] = {key: {} for key in _SUBJECTS}
    async with ground(bench) as here:
        for key, subject in _SUBJECTS.items():
            if subject.curve and not bench.quick:
                for fewer in _FEWER:
                    found[key][fewer] = await _steady(here, key, fewer, timing)
            if subject.curve or not bench.quick:
                found[key][streams] = await _steady(here, key, streams, timing)
        if files >= _FILES_FOR_MORE and not bench.quick:
            found[_TAILRACE][_MORE] = await _steady(here, _TAILRACE, _MORE, timing)
    return Measured(_figures(found, streams), await _notes(bench, found, streams), _curves(found))


async def _steady(here: Ground, key: str, streams: int, timing: Timing) -> Steady:
    rate = min(_RATE, _MOST_TOKENS_A_S / streams)
    load = here.load(streams, rate, f"relay-{key}-{streams}")
    return await steady(_SUBJECTS[key].side, load, timing, redis_pid=here.redis_pid)


def _figures(found: Mapping[str, Mapping[int, Steady]], streams: int) -> tuple[Figure, ...]:
    at = {key: by_streams[streams] for key, by_streams in found.items() if by_streams}
    naive_us = _figure("naive", "worker CPU per token", at["naive"].side_us)
    floor_us = _figure("floor", "CPU per token", at["floor"].side_us)
    bars: dict[str, Any] = {"bar": Bar(35), "stretch": Bar(18), "against": naive_us}
    ours = [_figure(key, "worker CPU per token", at[key].side_us, floor=floor_us, **bars) for key in (_TAILRACE, _PUSH)]
    # The typed and the raw parse append nothing: another floor would be theirs.
    others = [
        _figure(key, "CPU per token", at[key].side_us, floor=floor_us if _SUBJECTS[key].subject == "tailrace" else None)
        for key in at
        if key not in (_TAILRACE, _PUSH, "naive")
    ]
    floor_redis = _figure("floor", "Redis CPU per token", at["floor"].redis_us)
    redis = [
        *(_figure(key, "Redis CPU per token", at[key].redis_us, floor=floor_redis) for key in (_TAILRACE, "naive")),
        floor_redis,
    ]
    opening = [_figure(key, "CPU per stream opened", [at[key].opened_ms], unit="ms") for key in _OPENING]
    wall = [_figure(key, "all streams open after", [at[key].all_open_s], unit="s") for key in _OPENING]
    memory = [
        _figure(key, "memory per open stream", [at[key].rss_kib], unit="KiB")
        for key in _OPENING
        if streams >= _LEAST_FOR_MEMORY
    ]
    return (*ours, naive_us, *others, *redis, *opening, *wall, *memory)


_OPENING: Final = (_TAILRACE, "naive", "typed")


def _figure(key: str, what: str, values: Sequence[float], *, unit: str = "us", **set_against: Any) -> Figure:
    subject = _SUBJECTS[key]
    return figure(subject.subject, f"{what}{subject.told}", [[value] for value in values], unit=unit, **set_against)


def _curves(found: Mapping[str, Mapping[int, Steady]]) -> tuple[Curve, ...]:
    drawn: Sequence[tuple[str, str, int, Callable[[Steady], float]]] = (
        ("CPU per token", "us", 1, lambda at: median(at.side_us)),
        ("Redis CPU per token", "us", 1, lambda at: median(at.redis_us)),
        ("CPU per stream opened", "ms", 1, lambda at: at.opened_ms),
        ("memory per open stream", "KiB", _LEAST_FOR_MEMORY, lambda at: at.rss_kib),
    )
    return tuple(
        Curve(
            subject=f"{_SUBJECTS[key].subject}{_SUBJECTS[key].told}",
            what=what,
            unit=unit,
            over="streams",
            points=tuple((streams, value(at)) for streams, at in sorted(by_streams.items()) if streams >= least),
        )
        for what, unit, least, value in drawn
        for key, by_streams in found.items()
        if len(by_streams) > 1
    )


async def _notes(bench: Bench, found: Mapping[str, Mapping[int, Steady]], streams: int) -> tuple[str, ...]:
    notes = [
        f"{streams} streams of {_RATE:g} tokens/s; CPU time of the process in windows of steady state, over the tokens it got "
        "through with (parsed, or their append acknowledged); what opening costs includes relaying for those that are open",
        "the ratio is to arq + XADD: stock arq, the openai package's typed stream, an awaited XADD a token, on asyncio",
    ]
    full = [
        f"{_SUBJECTS[key].subject}{_SUBJECTS[key].told} got through with {share:.0%}"
        for key, by_streams in found.items()
        if streams in by_streams and abs((share := median(by_streams[streams].share)) - 1) > _IN_STEP
    ]
    if full:
        notes.append(
            f"not in step with the upstream, for a core that was full, here or beside it: {'; '.join(full)} of what was due"
        )
    late = [
        f"{_SUBJECTS[key].subject}{_SUBJECTS[key].told} {at.open}"
        for key, by_streams in found.items()
        if streams in by_streams and key != "append" and (at := by_streams[streams]).open < streams
    ]
    if late:
        notes.append(f"streams open after {OPEN_S:g} s, where not all were: {'; '.join(late)}")
    if _MORE in found[_TAILRACE]:
        notes.append(f"curves: {_MORE} streams have {_MOST_TOKENS_A_S / _MORE:g} tokens/s each")
    with contextlib.suppress(OSError):
        us = await redis_benchmark(bench.redis_url, bench.scaled(200_000, 2000))
        if us is not None:
            notes.append(f"Redis' own benchmark tool appends one in {us:.2g} us (wall time, 50 XADDs a write)")
    return tuple(notes)


ROW: Final = Row("relay", "worker CPU per relayed token, upstream's bytes to acknowledged append", measure)
