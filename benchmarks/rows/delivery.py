"""A thousand streams of thirty tokens a second through one worker: what arrives at a consumer, and how old it is by then.

Every token says when it was sent. One consumer process follows all streams, through tailrace's client; beside, the naive
design, each of whose consumers waits in a blocked XREAD. Nothing waits for a slow side: what is due is sent, and what has
not arrived is missing from the share. tailrace's worker reads its upstreams in either way that it can. A third of the rate
beside: what a machine that is not full makes of the same.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from benchmarks.cpu import Cores
from benchmarks.deliveries import through_naive, through_tailrace
from benchmarks.figures import Bar, Curve, Figure, Measured, figure, median, quantile
from benchmarks.harness import Bench
from benchmarks.loops import raise_file_limit
from benchmarks.rows.row import Row
from benchmarks.streams import Ground, Side, Steady, Timing, ground, steady

_STREAMS: Final = 1000
_FEWER: Final = (1, 10, 100, 300)
_RATE: Final = 30.0
_THIRD: Final = _RATE / 3

_NAIVE: Final = "arq + XADD + XREAD"
#: By subject and, beyond its name, which of its ways.
_SIDES: Final[Mapping[tuple[str, str], Side]] = {
    ("tailrace", ""): through_tailrace(),
    ("tailrace", ", transport push"): through_tailrace("push"),
    (_NAIVE, ""): through_naive,
}
_NOTHING_CAME_MS: Final = 1000.0

_Found = dict[tuple[str, str], dict[tuple[int, float], Steady]]
"""By side, then by streams and rate."""


async def measure(bench: Bench) -> Measured:
    raise_file_limit()
    streams = bench.scaled(_STREAMS, 20)
    timing = Timing(settle_s=1.0, window_s=1.0, windows=5) if not bench.quick else Timing(0.1, 1.0, 1)
    found: _Found = {key: {} for key in _SIDES}
    # All share all cores: where there are two, three processes on one of them would be what is measured.
    async with ground(bench, Cores.anywhere()) as here:
        for key in _SIDES:
            if not bench.quick:
                for fewer in _FEWER:
                    await _measure(here, key, fewer, _RATE, timing, found)
            await _measure(here, key, streams, _RATE, timing, found)
            if not bench.quick and key[0] == "tailrace":
                await _measure(here, key, streams, _THIRD, timing, found)
    return Measured(_figures(found, streams), _notes(found, streams), _curves(found))


async def _measure(
    here: Ground, key: tuple[str, str], streams: int, rate: float, timing: Timing, found: _Found
) -> None:
    load = here.load(streams, rate, f"delivery-{list(_SIDES).index(key)}-{streams}-{rate:g}")
    found[key][streams, rate] = await steady(_SIDES[key], load, timing, redis_pid=here.redis_pid)


def _figures(found: _Found, streams: int) -> tuple[Figure, ...]:
    of_naive = figure("", "", _ages_ms(found[_NAIVE, ""][streams, _RATE]))
    figures: list[Figure] = []
    for (subject, told), at in found.items():
        ours = subject != _NAIVE
        bars: dict[str, Any] = {"bar": Bar(5, 50), "stretch": Bar(1, 20), "against": of_naive} if ours else {}
        figures += _figures_of(subject, told, at[streams, _RATE], bars)
    for (subject, told), at in found.items():
        if (streams, _THIRD) in at:
            figures += _figures_of(subject, f"{told}, {_THIRD:g} tokens/s", at[streams, _THIRD], {})
    return tuple(figures)


def _figures_of(subject: str, told: str, at: Steady, bars: Mapping[str, Any]) -> Sequence[Figure]:
    return (
        figure(
            subject,
            f"delivered share of what was due{told}",
            [[100 * share] for share in at.share],
            unit="%",
            rate=True,
        ),
        figure(subject, f"sent -> delivered{told}", _ages_ms(at), **bars),
        figure(subject, f"worker CPU per token{told}", [[us] for us in at.side_us], unit="us"),
        figure(subject, f"Redis CPU per token{told}", [[us] for us in at.redis_us], unit="us"),
        figure(subject, f"consumer CPU per token{told}", [[us] for us in at.consumer_us], unit="us"),
    )


def _curves(found: _Found) -> tuple[Curve, ...]:
    drawn: Sequence[tuple[str, str, Callable[[Steady], float]]] = (
        ("sent -> delivered, p50", "ms", lambda at: _age_ms(at, 0.5)),
        ("sent -> delivered, p99", "ms", lambda at: _age_ms(at, 0.99)),
        ("delivered share of what was due", "%", lambda at: 100 * median(at.share)),
        ("consumer CPU per token", "us", lambda at: median(at.consumer_us)),
    )
    return tuple(
        Curve(subject, what + told, unit, "streams", points)
        for what, unit, value in drawn
        for (subject, told), by_load in found.items()
        if len(
            points := tuple((streams, value(at)) for (streams, rate), at in sorted(by_load.items()) if rate == _RATE)
        )
        > 1
    )


def _ages_ms(at: Steady) -> list[list[float]]:
    """By window. Where nothing came at all: as if it had come at the end of the first window, in truth it is worse."""
    found = [[age / 1000 for age in window] for window in at.ages_us]
    return found if any(found) else [[_NOTHING_CAME_MS]]


def _age_ms(at: Steady, q: float) -> float:
    return quantile((age for window in _ages_ms(at) for age in window), q)


def _notes(found: _Found, streams: int) -> tuple[str, ...]:
    return (
        f"{streams} streams of {_RATE:g} tokens/s, one consumer process; the share is of all tokens due in the windows, the "
        "ages are of those that came",
        *(
            f"{subject}{told}{'' if rate == _RATE else f', {rate:g} tokens/s'}: {at.open} of {streams} streams opened, in "
            f"{at.all_open_s:.1f} s; {_busy(at)}; {at.behind} tokens had not arrived 3 s after the end of all streams"
            for (subject, told), by_load in found.items()
            for (at_once, rate), at in by_load.items()
            if at_once == streams
        ),
        "busy: CPU time of a process in a window; all processes share all cores: where it adds up to nearly all of them, tokens "
        "wait for a core",
    )


def _busy(at: Steady) -> str:
    beside = ", ".join(f"{who} {median(busy):.0%}" for who, busy in at.busy_beside.items())
    return f"busy: worker {median(at.busy):.0%}, {beside}"


ROW: Final = Row("delivery", "1,000 streams x 30 tok/s through one worker, to a consumer", measure)
