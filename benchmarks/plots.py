"""The curves of a run as SVG: one plot for each row and quantity. The same figures give the same bytes.

Needs matplotlib (group `bench`). Colours and a transparent ground that can be read on light and on dark pages.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

from matplotlib import rc_context  # pyright: ignore[reportUnknownVariableType]  # its own annotations
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks.figures import Curve, Measured
from benchmarks.rows import Row

_GREY: Final = "#808080"
_COLOURS: Final = ("#3b82c4", "#d97b29", "#3a9d6a", "#9a6bd0", "#c2557a", "#7f7f32")
#: What a unit measures, for titles and file names.
_QUANTITIES: Final = {
    "s": "time",
    "ms": "time",
    "us": "cpu",
    "B": "memory",
    "KiB": "memory",
    "%": "share",
    "chunks/s": "rate",
}
_TITLES: Final = {"cpu": "CPU time"}
#: Fewer times than that between least and most: a plain axis from nought shows it better than a logarithm.
_LOG_FROM: Final = 30
_RC: Final[Any] = {
    "svg.hashsalt": "tailrace",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _GREY,
    "axes.edgecolor": _GREY,
    "axes.labelcolor": _GREY,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
}
#: Neither the day nor the version of matplotlib: they would change the file without its figures.
_METADATA: Final[dict[str, Any]] = {"Date": None, "Creator": None}


def draw(rows: Sequence[tuple[Row, Measured]], folder: Path, link: str) -> dict[str, list[str]]:
    """Write the plots into the folder; by a row's key, the Markdown that shows them. `link`: the folder, from the page."""
    shown: dict[str, list[str]] = {}
    for row, measured in rows:
        for quantity, curves in _by_quantity(measured.curves).items():
            title = f"{row.title}: {_TITLES.get(quantity, quantity)} over {curves[0].over}"
            name = f"{row.key}-{quantity}.svg"
            folder.mkdir(parents=True, exist_ok=True)
            _plot(title, curves, folder / name)
            shown.setdefault(row.key, []).append(f"![{title}]({link}/{name})")
    return shown


def _by_quantity(curves: Sequence[Curve]) -> dict[str, list[Curve]]:
    found: dict[str, list[Curve]] = {}
    for curve in curves:
        found.setdefault(_QUANTITIES.get(curve.unit, curve.unit), []).append(curve)
    return found


def _plot(title: str, curves: Sequence[Curve], file: Path) -> None:
    with cast("Any", rc_context)(_RC):
        canvas: Any = Canvas(figsize=(8.5, 3.4), layout="constrained")
        axes: Any = canvas.add_subplot()
        for number, curve in enumerate(curves):
            xs, ys = zip(*curve.points, strict=True)
            colour = _COLOURS[number % len(_COLOURS)]
            # Baselines in dashes: told apart without colours too.
            style = "-" if curve.subject == "tailrace" else "--"
            label = f"{curve.subject}: {curve.what}"
            axes.plot(xs, ys, style, color=colour, label=label, marker="o", markersize=3.5, linewidth=1.6)
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel(curves[0].over)
        axes.set_ylabel(curves[0].unit)
        _scale(axes, curves)
        axes.grid(visible=True, color=_GREY, alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        canvas.savefig(file, format="svg", transparent=True, metadata=_METADATA)


def _scale(axes: Any, curves: Sequence[Curve]) -> None:
    xs = sorted({x for curve in curves for x, _ in curve.points})
    ys = [y for curve in curves for _, y in curve.points]
    if xs[0] > 0 and xs[-1] >= _LOG_FROM * xs[0]:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(_ticks(xs))
    axes.xaxis.set_major_formatter(FuncFormatter(_number))
    if min(ys) > 0 and max(ys) >= _LOG_FROM * min(ys):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if max(ys) < 1000 * min(ys) else (1.0,)))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(bottom=min(0.0, *ys))
    axes.yaxis.set_major_formatter(FuncFormatter(_number))


def _ticks(xs: Sequence[float]) -> list[float]:
    """Where it was measured, without those that would stand on each other."""
    ticks = list(xs[:1])
    for x in xs[1:]:
        if not ticks[-1] or x >= 2 * ticks[-1]:
            ticks.append(x)
    return ticks


def _number(value: float, _: object = None) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:g}"
