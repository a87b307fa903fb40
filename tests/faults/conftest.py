"""The fault suite: `-m faults` runs all of it, `-m faults_fast` what every test run should have.

`FAULTS_ROUNDS=20` repeats every test that has a `chance` with as many seeds (the test's id shows which), `FAULTS_SEED=100`
says where they begin.
"""

import os
import random
from pathlib import Path
from typing import Any

import pytest

#: A scenario waits for leases and restarts; a hang is found by the witness long before this.
TIMEOUT_S = 120
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.faults)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TIMEOUT_S))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "chance" in metafunc.fixturenames:
        first, rounds = int(os.environ.get("FAULTS_SEED", "0")), int(os.environ.get("FAULTS_ROUNDS", "1"))
        metafunc.parametrize("chance", range(first, first + rounds), indirect=True)


@pytest.fixture
def chance(request: Any) -> random.Random:
    """Decides when the blow falls; the same seed, the same moments."""
    return random.Random(f"{request.node.originalname}-{request.param}")
