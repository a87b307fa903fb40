"""The trend of the hot paths' CPU time."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Final, cast

from benchmarks.logs import tokens
from benchmarks.trend import (
    Run,
    changed,
    late_path,
    load,
    publications,
    read_path,
    record,
    show,
    upstream_bytes,
    write_path,
)
from rich.console import Console

from tailrace.schemas import Entry, Position

ROOT: Final = Path(__file__).parent.parent.parent


def run(commit: str, write: float) -> Run:
    return Run(commit=commit, version="0.1.0", date="2026-11-22", python="3.11.7", ratios={"write": write, "read": 2.0})


def test_a_stored_file_is_shown_as_a_trend_with_the_present_run_behind_it(tmp_path: Path) -> None:
    store = tmp_path / "trend.jsonl"
    record(store, run("aaaaaaa", 2000.0))
    command = [sys.executable, "-m", "benchmarks", "trend", "--rounds", "1", "--store", str(store)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    stored = next(line for line in lines if "2000.00" in line)
    assert "aaaaaaa" in stored
    assert "████████" in stored
    now = lines[lines.index(stored) + 1]
    # A token never takes two thousand turns of the loop.
    assert any(told in now for told in ("-9", "-100%"))
    assert "█" not in now
    assert [title for title in ("write:", "read:", "late:") if title in done.stdout] == ["write:", "read:", "late:"]
    assert len(load(store)) == 1


def test_record_adds_the_run(tmp_path: Path) -> None:
    store = tmp_path / "trend.jsonl"
    command = [sys.executable, "-m", "benchmarks", "trend", "--rounds", "1", "--record", "--store", str(store)]
    for _ in range(2):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
    first, second = load(store)
    assert first.ratios.keys() == {"write", "read", "late"}
    assert all(ratio > 0 for ratio in second.ratios.values())


def test_bars_are_in_proportion_and_changes_beyond_noise_are_told() -> None:
    console = Console(width=120, file=io.StringIO())
    show([run("a", 10.0), run("b", 5.0), run("c", 5.1)], console)
    shown = cast("io.StringIO", console.file).getvalue()
    one, two, three, *_ = [line for line in shown.splitlines() if "2026-11-22" in line]
    assert one.count("█") == 2 * two.count("█") == 24
    assert "-50%" in two
    assert "=" in three


def test_a_change_within_the_noise_is_none() -> None:
    assert changed(10.0, 10.7) == "="
    assert changed(10.0, 11.0) == "+10%"
    assert changed(10.0, 8.0) == "-20%"


def test_the_paths_carry_every_token() -> None:
    texts = tokens(300)
    characters = sum(map(len, texts))
    page = [Entry(Position(f"1790000000000000-{seq}"), "chunk", text) for seq, text in enumerate(texts, 1)]
    assert read_path(publications(texts)) == characters
    assert late_path(page) == characters
    longer = [*texts[:-1], texts[-1] + "and ten more"]
    assert write_path(upstream_bytes(longer)) - write_path(upstream_bytes(texts)) in (
        12,
        13,
    )  # its length may gain a digit
