"""The diagrams of the pages, drawn: `python docs/_build/diagrams.py` writes them into docs/images/diagrams.

As files they follow the system's choice of dark or light; the site makes them part of the page and colours them by its own
(docs/assets/site.css has the same classes). Coordinates are pixels; a box's text is centred.
"""

from collections.abc import Callable, Iterator
from math import hypot
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

FOLDER: Final = Path(__file__).parents[1] / "images" / "diagrams"
#: Both palettes: paper is a box's ground, ink its text.
STYLE: Final = """<style>
.dg{--paper:#f6f8fa;--line:#8c959f;--ink:#1f2328;--soft:#59636e;--good:#0f766e;--tint:#d5f0ec;--bad:#b42318;--warn:#fdecea}
@media (prefers-color-scheme:dark){.dg{--paper:#1c222b;--line:#6e7681;--ink:#e6edf3;--soft:#9aa4af;--good:#4fd1c0;
--tint:#103b37;--bad:#ff8f86;--warn:#47201d}}
.dg text{font:14px system-ui,sans-serif;fill:var(--ink);text-anchor:middle}.dg .soft{fill:var(--soft);font-size:12.5px}
.dg .left{text-anchor:start}.dg .code{font-family:ui-monospace,monospace;font-size:12.5px}.dg .strong{font-weight:600}
.dg .badtext{fill:var(--bad)}.dg .goodtext{fill:var(--good)}
.dg rect{fill:var(--paper);stroke:var(--line)}.dg .tint{fill:var(--tint);stroke:var(--good)}
.dg .void{fill:var(--warn);stroke:var(--bad);stroke-dasharray:4 3}.dg .ghost{fill:none;stroke-dasharray:4 3}
.dg path{fill:none;stroke:var(--line);stroke-width:1.6}.dg .flow{stroke:var(--good)}.dg .cut{stroke:var(--bad);stroke-width:2}
.dg .head{fill:var(--line);stroke:none}.dg .flowhead{fill:var(--good);stroke:none}
</style>"""


def box(x: int, y: int, width: int, height: int, *lines: str, kind: str = "", text: str = "") -> str:
    """A box with lines of text: the first in full colour, the others softer."""
    drawn = [f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="7"/>']
    top = y + height / 2 + 5 - 9 * (len(lines) - 1)
    for number, line in enumerate(lines):
        drawn.append(label(x + width // 2, int(top + 18 * number), line, text if number == 0 else "soft"))
    return "".join(drawn)


def label(x: int, y: int, line: str, kind: str = "") -> str:
    return f'<text class="{kind}" x="{x}" y="{y}">{escape(line)}</text>'


def arrow(*points: tuple[int, int], kind: str = "") -> str:
    """A line through these points with a head at its end."""
    (x0, y0), (x, y) = points[-2:]
    length = hypot(x - x0, y - y0)
    dx, dy = (x - x0) / length, (y - y0) / length
    left, right = ((x - 9 * dx - side * 5 * dy, y - 9 * dy + side * 5 * dx) for side in (1, -1))
    head = f"M{x} {y}L{left[0]:.1f} {left[1]:.1f}L{right[0]:.1f} {right[1]:.1f}z"
    line = "M" + "L".join(f"{a} {b}" for a, b in points)
    return f'<path class="{kind}" d="{line}"/><path class="{kind}head" d="{head}"/>'


def overview() -> Iterator[str]:
    yield from (box(10, 30, 130, 56, "producer", "submits", text="strong"), arrow((140, 58), (196, 58)))
    yield from (box(200, 30, 130, 56, "queue", "ids only", text="strong"), arrow((330, 58), (386, 58)))
    yield from (box(390, 30, 130, 56, "worker", "one attempt", text="strong"), arrow((520, 52), (606, 52)))
    yield from (
        box(610, 30, 140, 56, "upstream", "any OpenAI API", text="strong"),
        arrow((610, 68), (524, 68), kind="flow"),
    )
    yield arrow((455, 86), (455, 138), kind="flow")
    yield label(462, 116, "every chunk and event", "soft left")
    yield box(200, 142, 510, 58, "", kind="tint")
    yield label(216, 166, "the job's log: one Redis Stream", "left strong")
    for number, chunk in enumerate(("job", "attempt", "Verse", " 1", ":", "…", "end")):
        yield label(232 + 68 * number, 188, chunk, "code")
    for number, (name, how) in enumerate(
        (("reader A", "from the start"), ("reader B", "joined late"), ("reader C", "resumed"))
    ):
        x = 215 + 170 * number
        yield from (arrow((x + 65, 200), (x + 65, 240), kind="flow"), box(x, 244, 130, 56, name, how, text="strong"))
    yield from (arrow((75, 86), (75, 171), (196, 171)), label(84, 136, "job id", "soft left"))


def the_log() -> Iterator[str]:
    records = (
        ("0-1", "job", "digest, deadline", ""),
        ("7001-0", "attempt", "worker, nonce", ""),
        ("7001-1", "chunk", "“Verse”", "tint"),
        ("7001-2", "chunk", "“ 1”", "tint"),
        ("7001-3", "event", "a step's end", ""),
        ("7001-4", "chunk", "“:”", "tint"),
        ("MAX-MAX", "end", "completed", ""),
    )
    for number, (position, kind, value, fill) in enumerate(records):
        x = 8 + 108 * number
        yield label(x + 48, 30, position, "code soft")
        yield box(x, 42, 98, 58, kind, value, kind=fill, text="strong")
    yield label(8, 16, "position", "soft left")
    yield from (
        arrow((488, 150), (488, 106), kind="flow"),
        label(488, 168, "a reader resumes just after 7001-2", "soft"),
    )
    yield label(704, 128, "Redis refuses any id", "soft")
    yield label(704, 144, "above it: sealed", "soft")
    yield label(164, 128, "a newer attempt", "soft")
    yield label(164, 144, "fences this one", "soft")


def restart() -> Iterator[str]:
    yield label(8, 38, "attempt 1", "left strong")
    for number, text in enumerate(("The", " mill", " wheel", " turns")):
        yield box(126 + 78 * number, 16, 72, 34, text, kind="tint" if number < 3 else "void", text="code")
    yield '<path class="cut" d="M448 14l16 38M464 14l-16 38"/>'
    yield label(478, 38, "the worker dies", "left badtext")
    yield label(8, 108, "attempt 2", "left strong")
    for number, text in enumerate(("The", " mill", " wheel")):
        yield box(126 + 78 * number, 86, 72, 34, text, kind="ghost", text="code soft")
    yield box(360, 86, 92, 34, "rewind", kind="void", text="code")
    for number, text in enumerate((" sings", " on", ".")):
        yield box(458 + 78 * number, 86, 72, 34, text, kind="tint", text="code")
    yield label(239, 142, "compared, not written again", "soft")
    yield label(406, 142, "“ turns” is void", "badtext")
    yield label(571, 142, "goes on from here", "goodtext")
    yield label(8, 196, "what stands", "left strong")
    for number, text in enumerate(("The", " mill", " wheel", " sings", " on", ".")):
        yield box(126 + 78 * number, 174, 72, 34, text, kind="tint", text="code")


def life() -> Iterator[str]:
    yield from (box(10, 76, 120, 50, "queued", "stored, then queued", text="strong"), arrow((130, 101), (216, 101)))
    yield label(173, 92, "claim", "soft")
    yield box(220, 76, 140, 50, "in_progress", "one attempt writes", kind="tint", text="strong")
    yield from ('<path d="M250 76C250 34 330 34 330 76"/>', label(290, 36, "next attempt", "soft"))
    ends = (
        ("completed", "the whole answer"),
        ("incomplete", "a limit or a filter"),
        ("failed", "a typed error"),
        ("cancelled", "what came stands"),
        ("expired", "past its deadline"),
    )
    for number, (name, what) in enumerate(ends):
        y = 8 + 44 * number
        yield arrow((400, y + 18), (456, y + 18))
        yield box(460, y, 110, 36, name, text="strong")
        yield label(584, y + 23, what, "soft left")
    yield '<path d="M360 101H400M400 26V202"/>'
    yield label(380, 92, "seal", "soft")
    yield '<path d="M70 126V202H400"/>'
    yield label(84, 194, "a queued job can be cancelled or expire", "soft left")


def processes() -> Iterator[str]:
    yield from (
        box(8, 20, 150, 46, "browsers", "EventSource", text="strong"),
        box(8, 86, 150, 46, "OpenAI clients", "any language", text="strong"),
    )
    yield box(8, 152, 150, 46, "your Python code", "submit, stream", text="strong")
    yield from (arrow((158, 43), (216, 66)), arrow((158, 109), (216, 90)))
    yield box(220, 48, 130, 60, "gateways", "keep nothing", text="strong")
    yield from (arrow((350, 78), (416, 112)), arrow((158, 175), (416, 140)))
    yield box(420, 76, 150, 100, "Redis or Valkey", "logs, queue", "the only state", kind="tint", text="strong")
    yield from (arrow((626, 66), (574, 100), kind="flow"), arrow((626, 188), (574, 150), kind="flow"))
    for number in range(2):
        y = 42 + 122 * number
        yield from (
            box(630, y, 124, 50, "worker", "up to 1,000 jobs", text="strong"),
            arrow((692, y + 50), (692, y + 74)),
        )
        yield box(630, y + 76, 124, 34, ("OpenAI", "your own vLLM")[number])


DIAGRAMS: Final[dict[str, tuple[int, int, Callable[[], Iterator[str]]]]] = {
    "overview": (760, 310, overview),
    "log": (768, 180, the_log),
    "restart": (768, 216, restart),
    "life": (720, 224, life),
    "processes": (760, 290, processes),
}


def drawn(name: str) -> str:
    width, height, draw = DIAGRAMS[name]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="dg" viewBox="0 0 {width} {height}" width="{width}">'
        f"{STYLE}\n" + "\n".join(draw()) + "\n</svg>\n"
    )


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in DIAGRAMS:
        (FOLDER / f"{name}.svg").write_text(drawn(name), encoding="utf-8")


if __name__ == "__main__":
    main()
