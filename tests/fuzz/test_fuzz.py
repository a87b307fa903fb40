"""Whatever an upstream, a snapshot or a channel brings: a typed error or an answer, soon. TAILRACE_FUZZ tries more."""

import os
from typing import Any

import pytest

from tailrace.worker import sse
from tailrace.worker.sources import decoding

from .targets import Fuzz, Hangs, bounded

CASES = int(os.environ.get("TAILRACE_FUZZ", "6000"))
BATCHES = 4


@pytest.fixture(scope="module")
def fuzz() -> Fuzz:
    return Fuzz()


@pytest.mark.timeout(max(60, CASES // 100))
@pytest.mark.parametrize("batch", range(BATCHES))
def test_damaged_input_gives_an_answer_or_a_typed_error(fuzz: Fuzz, batch: int) -> None:
    for number in range(batch * CASES // BATCHES, (batch + 1) * CASES // BATCHES):
        try:
            fuzz.case(number)
        except Exception as error:
            raise AssertionError(f"case {number}: python -m tests.fuzz 1 --from {number}") from error


def test_all_that_can_come_of_it_comes_of_it(fuzz: Fuzz) -> None:
    for number in range(4000):
        fuzz.case(number)
    for target in ("record taken", "record refused", "record passed over", "snapshot taken", "snapshot refused"):
        assert fuzz.counted[target]
    for target in ("live taken", "live refused"):
        assert fuzz.counted[target]
    for api in ("chat", "completions", "responses"):
        for came in ("completed", "incomplete", "upstream_broken", "upstream_error", "upstream_malformed"):
            assert fuzz.counted[f"stream {api} {came}"], f"never in 4000 cases: {api} {came}"


def found_by(fuzz: Fuzz, cases: int = 3000) -> str:
    """What the first bad case raises."""
    for number in range(cases):
        try:
            fuzz.case(number)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return "nothing"


def test_a_decoder_that_stores_what_it_gets_as_it_is_is_caught(fuzz: Fuzz, monkeypatch: pytest.MonkeyPatch) -> None:
    def as_it_is(_: object, value: object) -> object:
        return value

    monkeypatch.setattr(decoding.EventReader, "clean", as_it_is)
    assert found_by(fuzz) != "nothing"


def test_a_splitter_that_takes_cr_and_lf_for_two_ends_is_caught(fuzz: Fuzz, monkeypatch: pytest.MonkeyPatch) -> None:
    splitting: Any = sse.Splitter
    pieces = splitting._pieces

    def forgetful(splitter: Any, chunk: bytes, events: list[sse.Event]) -> None:
        splitter._skip_lf = False
        pieces(splitter, chunk, events)

    monkeypatch.setattr(sse.Splitter, "_pieces", forgetful)
    assert "how the stream was cut" in found_by(fuzz)


def test_a_case_that_hangs_is_caught() -> None:
    def hang() -> None:
        while True:
            pass

    with pytest.raises(Hangs), bounded(0.05):
        hang()
