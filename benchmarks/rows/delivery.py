"""A thousand streams of thirty tokens a second through one worker: what arrives at a consumer, and how old it is by then.

Every token says when it was sent. One consumer process follows all streams, through tailrace's client; beside, the naive
design, each of whose consumers waits in a blocked XREAD. Nothing waits for a slow side: what is due is sent, and what has
not arrived is missing from the share.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from benchmarks.deliveries import through_naive, through_tailrace
from benchmarks.figures import Bar, Curve, Figure, Measured, figure, median, quantile
from benchmarks.harness import Bench
from benchmarks.loops import raise_file_limit
from benchmarks.rows.row import Row
from benchmarks.streams import Side, Steady, Timing, ground, steady

_STREAMS: Final = 1000
_FEWER: Final = (1, 10, 100, 300)
_RATE: Final = 30.0

_SIDES: Final[Mapping[str, Side]] = {"tailrace": through_tailrace, "arq + XADD + XREAD": through_naive}
_NOTHING_CAME_MS: Final = 1000.0
_OURS: Final = "tailrace"


async def measure(bench: Bench) -> Measured:
    raise_file_limit()
    streams = bench.scaled(_STREAMS, 20)
    timing = Timing(settle_s=1.0, window_s=1.0, windows=5) if not bench.quick else Timing(0.1, 1.0, 1)
    found: dict[str, dict[int, Steady]] = {subject: {} for subject in _SIDES}
    async with ground(bench) as here:
        for number, (subject, side) in enumerate(_SIDES.items()):
            for at_once in (streams,) if bench.quick else (*_FEWER, streams):
                load = here.load(at_once, _RATE, f"delivery-{number}-{at_once}")
                found[subject][at_once] = await steady(side, load, timing, redis_pid=here.redis_pid)
    figures = [made for subject in _SIDES for made in _figures(subject, found, streams)]
    return Measured(tuple(figures), _notes(found, streams), _curves(found))


def _figures(subject: str, found: Mapping[str, Mapping[int, Steady]], streams: int) -> Sequence[Figure]:
    at = found[subject][streams]
    ours = subject == _OURS
    other = next(by_streams[streams] for name, by_streams in found.items() if name != _OURS)
    age = figure(
        subject,
        "sent -> delivered",
        _ages_ms(at),
        bar=Bar(5, 50) if ours else None,
        stretch=Bar(1, 20) if ours else None,
        against=figure("", "", _ages_ms(other)) if ours else None,
    )
    return (
        figure(subject, "delivered share of what was due", [[100 * share] for share in at.share], unit="%"),
        age,
        figure(subject, "worker CPU per token", [[us] for us in at.side_us], unit="us"),
        figure(subject, "Redis CPU per token", [[us] for us in at.redis_us], unit="us"),
        figure(subject, "consumer CPU per token", [[us] for us in at.consumer_us], unit="us"),
    )


def _curves(found: Mapping[str, Mapping[int, Steady]]) -> tuple[Curve, ...]:
    drawn: Sequence[tuple[str, str, Callable[[Steady], float]]] = (
        ("sent -> delivered, p50", "ms", lambda at: _age_ms(at, 0.5)),
        ("sent -> delivered, p99", "ms", lambda at: _age_ms(at, 0.99)),
        ("delivered share of what was due", "%", lambda at: 100 * median(at.share)),
        ("consumer CPU per token", "us", lambda at: median(at.consumer_us)),
    )
    return tuple(
        Curve(subject, what, unit, "streams", tuple((streams, value(at)) for streams, at in sorted(by_streams.items())))
        for what, unit, value in drawn
        for subject, by_streams in found.items()
        if len(by_streams) > 1
    )


def _ages_ms(at: Steady) -> list[list[float]]:
    """By window. Where nothing came at all: as if it had come at the end of the first window, in truth it is worse."""
    found = [[age / 1000 for age in window] for window in at.ages_us]
    return found if any(found) else [[_NOTHING_CAME_MS]]


def _age_ms(at: Steady, q: float) -> float:
    return quantile((age for window in _ages_ms(at) for age in window), q)


def _notes(found: Mapping[str, Mapping[int, Steady]], streams: int) -> tuple[str, ...]:
    return (
        f"{streams} streams of {_RATE:g} tokens/s, one consumer process; the share is of all tokens due in the windows, the "
        "ages are of those that came",
        *(
            f"{subject}: {at.open} of {streams} streams opened, in {at.all_open_s:.1f} s; the worker's core was busy to "
            f"{median(at.busy):.0%}; {at.behind} tokens had not arrived 3 s after the end of all streams"
            for subject, by_streams in found.items()
            for at in [by_streams[streams]]
        ),
    )


ROW: Final = Row("delivery", "1,000 streams x 30 tok/s through one worker, to a consumer", measure)
