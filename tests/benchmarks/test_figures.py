"""What figures say of one another, and how a table shows them."""

import pytest
from benchmarks.ages import Ages
from benchmarks.figures import Bar, Figure, Measured, figure
from benchmarks.harness import Bench
from benchmarks.machine import Machine
from benchmarks.report import Report
from benchmarks.rows import Row


async def nothing(_: Bench) -> Measured:
    return Measured(())


def markdown(*figures: Figure) -> str:
    machine = Machine("", 2, "", "", "", "", {})
    return Report(machine, quick=False, rows=[(Row("key", "A row", nothing), Measured(figures))]).markdown()


def test_a_time_is_better_the_less_it_is() -> None:
    other, floor = figure("other", "", [[20.0]]), figure("floor", "", [[2.0]])
    made = figure("tailrace", "", [[5.0]], against=other, floor=floor, bar=Bar(5), stretch=Bar(4))
    assert (made.ratio, made.of_floor, made.reached) == (4.0, 2.5, "bar")


@pytest.mark.parametrize(("delivered", "reached"), [(39_999.0, "no"), (40_000.0, "bar"), (80_000.0, "stretch")])
def test_a_rate_is_better_the_more_it_is(delivered: float, reached: str) -> None:
    other, floor = (figure("", "", [[rate]], rate=True) for rate in (10_000.0, 160_000.0))
    made = figure(
        "tailrace", "", [[delivered]], rate=True, against=other, floor=floor, bar=Bar(40_000), stretch=Bar(80_000)
    )
    assert made.reached == reached
    assert made.ratio == delivered / 10_000
    assert made.of_floor == 160_000 / delivered


def test_to_nothing_there_is_no_relation() -> None:
    nought = figure("other", "", [[0.0]], rate=True)
    assert figure("tailrace", "", [[5.0]], rate=True, against=nought, floor=nought).ratio is None


def test_a_table_has_no_column_with_nothing_in_it() -> None:
    floor = figure("floor", "wake", [[2.0]])
    assert "|  | what | p50 | n |" in markdown(floor)
    shown = markdown(figure("tailrace", "wake", [[5.0]], floor=floor), floor)
    assert "|  | what | p50 | n | of floor |" in shown
    assert "| tailrace | wake | 5.00 ms | 1 | 2.50 x |" in shown
    assert "| floor | wake | 2.00 ms | 1 |  |" in shown


def test_a_great_number_is_shown_with_its_thousands() -> None:
    shown = markdown(figure("tailrace", "delivered", [[81_234.5]], unit="chunks/s", rate=True, bar=Bar(40_000)))
    assert "81,234 chunks/s" in shown
    assert "40,000 chunks/s" in shown


def test_ages_are_told_for_the_whole_windows_only() -> None:
    ages = Ages()
    for window in ([9], [3, 1, 2], [], list(range(5000)), [8]):
        ages.now += window
        ages.next_window()
    first, empty, many = ages.windows()[:3]
    assert (first, empty) == ([1, 2, 3], [])
    assert (many[0], many[len(many) // 2], many[-1]) == (0, 2500, 4999)
    assert len(many) < 2000
