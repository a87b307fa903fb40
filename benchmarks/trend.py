"""`python -m benchmarks trend`: the CPU time of the hot paths, commit by commit, in a unit that machines have in common.

Each path runs in this process, without I/O, over the same input, and so does a fixed loop of plain Python (dictionaries,
bytes, calls): what is kept is the path's time for a token over that of one turn of the loop, the best of several rounds in which
all take turns. A faster machine makes both shorter; other work beside it disturbs both. `--record` adds the run to trend.jsonl.

write   bytes of an upstream -> events -> items -> lines -> what an append sends
read    a publication -> records -> a reader's cursor -> text
late    a page of the log, as the server sends it -> records -> text
"""

import argparse
import json
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.logs import tokens
from tailrace.joblog import Appends, Cursor, parse_publication
from tailrace.schemas import Entry, Keys, Position
from tailrace.views import TextView
from tailrace.worker.memory import Line
from tailrace.worker.recorder import Recorder
from tailrace.worker.sources.choices import ChatDecoder
from tailrace.worker.splice import Splice
from tailrace.worker.sse import Splitter

STORE: Final = Path(__file__).parent / "trend.jsonl"

_TOKENS: Final = 2000
_ROUNDS: Final = 25
_EPOCH: Final = 1_790_000_000_000_000
_KEYS: Final = Keys("bench-trend")
_JOB: Final = "0123456789abcdef0123456789abcdef"
_BAR: Final = 24
#: A difference that rounds of one and the same commit show too.
NOISE: Final = 0.08


@dataclass(frozen=True, slots=True)
class Run:
    """One line of the store."""

    commit: str
    version: str
    date: str
    python: str
    ratios: Mapping[str, float]
    """By path: a token's CPU time over that of a turn of the loop."""


# What is measured.


def calibrate() -> int:
    """So many turns of plain Python. Never change it: all that is stored is in its unit."""
    found: dict[bytes, int] = {}
    total = 0
    for number in range(_TOKENS):
        text = b"data: %d and some more" % number
        head, _, rest = text.partition(b" ")
        found[rest] = len(head)
        total += found.get(text[6:], 0) + len(rest.split(b" ")) + text.count(b"a")
    return total


def upstream_bytes(texts: Sequence[str]) -> list[bytes]:
    """What an upstream sends for these tokens: an event a network read."""
    head = (
        '{"id":"chatcmpl-8Zw1","object":"chat.completion.chunk","created":1790000000,"model":"gpt-4o-mini-2024-07-18",'
    )
    rest = '"service_tier":"default","system_fingerprint":"fp_0f03d4f0ee","choices":[{"index":0,"delta":{"content":'
    tail = '},"logprobs":null,"finish_reason":null}]}'
    return [f"data: {head}{rest}{json.dumps(text)}{tail}\n\n".encode() for text in texts]


def write_path(reads: Sequence[bytes]) -> int:
    """As a worker does it for one stream, an append for each read. The bytes that go to the server."""
    splitter, decoder, splice = Splitter(), ChatDecoder(), Splice([], base=Line("event", "{}"))
    nothing: Any = None  # what a recorder knows of the job and writes with is for events
    recorder = Recorder(nothing, nothing, clock_ahead_ms=0.0, output_bytes=2**30)
    appends = Appends(_KEYS, _JOB, "8b1f6c2e00000000")
    seq, sent, top = 0, 0, Position(f"{_EPOCH}-0")
    for read in reads:
        lines: list[Line] = []
        for event in splitter.feed(read):
            for item in decoder.feed(event):
                lines += splice.feed(recorder.item(item))
        pairs = [part for line in lines for part in (line.field, line.value)]
        sent += len(appends.command(pairs, top=top, epoch=_EPOCH, seq=seq + 1))
        seq += len(lines)
        top = Position(f"{_EPOCH}-{seq}")
    return sent


def publications(texts: Sequence[str]) -> list[bytes]:
    """What the append script publishes for these tokens, one at a time."""
    return [
        f"{_EPOCH}-{seq}\n{_EPOCH}-{seq + 1} chunk {len(text.encode())}\n{text}\n".encode()
        for seq, text in enumerate(texts)
    ]


def _begun() -> Cursor:
    """A cursor that has seen the claim."""
    cursor = Cursor(_JOB)
    job = Entry(Position("0-1"), "job", '{"incarnation":"8b1f6c2e"}')
    attempt = Entry(Position(f"{_EPOCH}-0"), "attempt", '{"after":"0-1","incarnation":"8b1f6c2e"}')
    cursor.take_read([job, attempt])
    return cursor


def read_path(payloads: Sequence[bytes]) -> int:
    """As a reader that is there when it happens gets it. The characters of the text."""
    cursor, view, characters = _begun(), TextView(), 0
    for payload in payloads:
        publication = parse_publication(payload)
        if publication is None:
            raise RuntimeError("this is no publication of ours any more")
        taken = cursor.take_live(publication.after, publication.entries)
        characters += sum(len(item) for item in view.feed(taken or []) if isinstance(item, str))
    return characters


def late_path(page: Sequence[Entry]) -> int:
    """As a reader that comes late gets it, a page at once."""
    taken = _begun().take_read(page)
    return sum(len(item) for item in TextView().feed(taken or []) if isinstance(item, str))


def measure(rounds: int = _ROUNDS) -> dict[str, float]:
    """The ratios of the present code."""
    texts = tokens(_TOKENS)
    reads, payloads = upstream_bytes(texts), publications(texts)
    page = [Entry(Position(f"{_EPOCH}-{seq}"), "chunk", text) for seq, text in enumerate(texts, 1)]
    paths: dict[str, Callable[[], int]] = {
        "write": lambda: write_path(reads),
        "read": lambda: read_path(payloads),
        "late": lambda: late_path(page),
    }
    best = dict.fromkeys(["", *paths], float("inf"))
    for _ in range(rounds):
        for name, path in {"": calibrate, **paths}.items():
            began = time.process_time_ns()
            path()
            best[name] = min(best[name], time.process_time_ns() - began)
    return {name: round(best[name] / best[""], 3) for name in paths}


# The store.


def load(store: Path) -> list[Run]:
    """What was recorded, the oldest first."""
    if not store.exists():
        return []
    return [Run(**json.loads(line)) for line in store.read_text().splitlines() if line.strip()]


def record(store: Path, run: Run) -> None:
    with store.open("a") as file:
        file.write(json.dumps(asdict(run)) + "\n")


def present(ratios: Mapping[str, float]) -> Run:
    """This working tree; `+` behind the commit: with changes in the source that are not committed."""
    git = ["git", "-C", str(STORE.parent)]
    commit = _said(*git, "rev-parse", "--short", "HEAD") or "?"
    changed = _said(*git, "status", "--porcelain", "--", "../src")
    return Run(
        commit=commit + "+" if changed else commit,
        version=version("tailrace"),
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        python=platform.python_version(),
        ratios=ratios,
    )


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def show(runs: Sequence[Run], console: Console) -> None:
    """A table for each path: the runs with a bar each, and how far the last one is from the one before."""
    names = dict.fromkeys(name for run in runs for name in run.ratios)
    for name in names:
        told = [run for run in runs if name in run.ratios]
        most = max(run.ratios[name] for run in told)
        title = f"{name}: a token, in turns of the loop"
        table = Table(
            "commit", "date", "python", "ratio", "", "", title=title, title_justify="left", box=box.SIMPLE_HEAD
        )
        before: float | None = None
        for run in told:
            ratio = run.ratios[name]
            change = "" if before is None else changed(before, ratio)
            table.add_row(run.commit, run.date, run.python, f"{ratio:.2f}", "█" * round(_BAR * ratio / most), change)
            before = ratio
        console.print(table)


def changed(before: float, now: float) -> str:
    """By how much, where it is more than noise."""
    share = now / before - 1
    return "=" if abs(share) <= NOISE else f"{share:+.0%}"


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks trend", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--record", action="store_true", help="add the present run to the store")
    parser.add_argument("--store", type=Path, default=STORE, metavar="FILE", help="default: benchmarks/trend.jsonl")
    parser.add_argument("--rounds", type=int, default=_ROUNDS, metavar="N")
    options = parser.parse_args(arguments)
    run = present(measure(options.rounds))
    show([*load(options.store), run], Console())
    if options.record:
        record(options.store, run)
