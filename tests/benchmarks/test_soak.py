"""The soak's arithmetic, and that it runs."""

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from benchmarks.soak import Sample, growth, slope

ROOT: Final = Path(__file__).parent.parent.parent


def test_the_slope_of_a_line_is_its_slope() -> None:
    assert slope([(0, 3.0), (10, 23.0), (20, 43.0)]) == pytest.approx(2.0)
    assert slope([(5, 1.0), (6, 1.0)]) == 0.0
    assert slope([(5, 1.0)]) == 0.0


def test_growth_looks_at_the_second_half_only() -> None:
    warm = [Sample(jobs=n, seconds=0.0, worker_bytes=n * 1000, server_bytes=n, used_bytes=n) for n in range(5)]
    steady = [
        Sample(jobs=n, seconds=0.0, worker_bytes=4000, server_bytes=4 + 3 * n, used_bytes=n % 2) for n in range(5, 10)
    ]
    found = growth([*warm, *steady])
    assert found["worker_bytes"] == 0.0
    assert found["server_bytes"] == pytest.approx(3.0)
    assert abs(found["used_bytes"]) < 0.5


def test_a_soak_tells_of_samples_and_growth() -> None:
    command = [sys.executable, "-m", "benchmarks", "soak", "--jobs", "60"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "bytes a job: worker" in done.stdout
    assert any(line.strip().startswith("60 ") and line.count("MiB") == 3 for line in done.stdout.splitlines())
