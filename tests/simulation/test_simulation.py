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
#: Of the seeds so many are worlds with two servers, each in place of two: they take twice as long.
APART = 0.2
MUTANT_SEEDS = 3000
ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(max(120, SEEDS))
@pytest.mark.parametrize("batch", range(BATCHES))
def test_no_seed_breaks_a_promise(batch: int) -> None:
    play_all(_share(batch, int(SEEDS * (1 - 2 * APART))))


@pytest.mark.timeout(max(120, SEEDS))
@pytest.mark.parametrize("batch", range(BATCHES))
def test_no_seed_breaks_a_promise_on_two_servers(batch: int) -> None:
    play_all(_share(batch, int(SEEDS * APART)), apart=True)


def _share(batch: int, seeds: int) -> range:
    return range(batch * seeds // BATCHES, (batch + 1) * seeds // BATCHES)


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


@pytest.mark.timeout(120)
def test_everything_that_can_happen_on_two_servers_does_happen() -> None:
    happened = play_all(range(150), apart=True).happened
    for what in (
        *("told", "losses", "queue losses", "ends lost", "jobs lost", "rewind", "replay"),
        *("blow server restart", "blow server pause", "blow producer dies", "blow kill", "blow cut", "blow part"),
        *("job completed", "job failed", "job cancelled", "reader ended", "reader missing"),
    ):
        assert happened[what], f"never in 150 seeds: {what} ({happened})"


def digest(seed: int, *, apart: bool = False) -> str:
    lines: list[str] = []
    play(seed, apart=apart, trace=lines.append)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_a_seed_is_played_the_same_way_again_and_in_another_process() -> None:
    seeds = [3, 5, 10, 20, 45, 63]
    worlds = [(seed, apart) for seed in seeds for apart in (False, True)]
    here = [digest(seed, apart=apart) for seed, apart in worlds]
    play_all(range(100, 110))
    assert [digest(seed, apart=apart) for seed, apart in worlds] == here
    program = (
        "from tests.simulation.test_simulation import digest\n"
        f"for seed, apart in {worlds}: print(digest(seed, apart=apart))"
    )
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
