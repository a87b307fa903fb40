"""Every promise under seeded schedules and faults. TAILRACE_SEEDS plays more; `python -m tests.simulation` plays millions."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .mutants import MUTANTS
from .seeds import first_noticed, play, play_all

SEEDS = int(os.environ.get("TAILRACE_SEEDS", "2000"))
BATCHES = 20
MUTANT_SEEDS = 3000
ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(max(120, SEEDS))
@pytest.mark.parametrize("batch", range(BATCHES))
def test_no_seed_breaks_a_promise(batch: int) -> None:
    play_all(range(batch * SEEDS // BATCHES, (batch + 1) * SEEDS // BATCHES))


@pytest.mark.timeout(120)
def test_everything_that_can_happen_does_happen() -> None:
    happened = play_all(range(250)).happened
    for what in (
        *("attempt", "chunk", "delta", "rewind", "replay", "replay of a replay", "end"),
        *("losses", "chunks lost", "ends lost", "jobs lost"),
        *("network lost_before", "network lost_after", "network cut_answer", "network silent"),
        *("blow kill", "blow freeze", "blow drain", "blow cut", "blow part", "blow clock"),
        *("blow flush scripts", "blow server pause", "blow server restart"),
        *("job completed", "job failed", "job cancelled", "job expired"),
        *("reader ended", "reader missing", "reader JobFailed", "reader JobCancelled", "reader JobExpired"),
    ):
        assert happened[what], f"never in 250 seeds: {what} ({happened})"


def digest(seed: int) -> str:
    lines: list[str] = []
    play(seed, trace=lines.append)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_a_seed_is_played_the_same_way_again_and_in_another_process() -> None:
    seeds = [3, 5, 10, 20, 45, 63]
    here = [digest(seed) for seed in seeds]
    play_all(range(100, 110))
    assert [digest(seed) for seed in seeds] == here
    program = f"from tests.simulation.test_simulation import digest\nfor seed in {seeds}: print(digest(seed))"
    there = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.split() == here


def test_a_bad_seed_says_how_to_play_it_alone() -> None:
    noticed = first_noticed(MUTANTS["an append does not compare"], range(MUTANT_SEEDS))
    assert noticed is not None
    seed, error = noticed
    assert any(f"--from {seed} --trace" in note for note in error.__notes__)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_rule_is_noticed(mutant: str) -> None:
    noticed = first_noticed(MUTANTS[mutant], range(MUTANT_SEEDS))
    assert noticed is not None, f"not noticed in {MUTANT_SEEDS} seeds"
    print(f"{mutant}: seed {noticed[0]}: {noticed[1]!r:.200}")
