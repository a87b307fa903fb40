"""Plots of a run's curves."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from benchmarks.figures import Curve, Measured
from benchmarks.harness import Bench
from benchmarks.plots import draw
from benchmarks.rows import Row


async def nothing(_: Bench) -> Measured:
    return Measured(())


def curve(subject: str, what: str, unit: str) -> Curve:
    return Curve(subject, what, unit, "readers", ((1, 1.0), (10, 2.5), (1000, 40.0)))


ROW = Row("fan-out", "many readers", nothing)
MEASURED = Measured(
    (), (), (curve("tailrace", "delivered", "ms"), curve("naive", "delivered", "ms"), curve("tailrace", "CPU", "us"))
)


def test_a_plot_for_each_row_and_quantity_is_written_and_linked(tmp_path: Path) -> None:
    shown = draw([(ROW, MEASURED), (Row("kill", "kill -9", nothing), Measured(()))], tmp_path / "plots", "plots")
    assert shown == {
        "fan-out": [
            "![many readers: time over readers](plots/fan-out-time.svg)",
            "![many readers: CPU time over readers](plots/fan-out-cpu.svg)",
        ]
    }
    assert sorted(file.name for file in (tmp_path / "plots").iterdir()) == ["fan-out-cpu.svg", "fan-out-time.svg"]


def test_a_plot_names_its_curves_and_axes_as_text(tmp_path: Path) -> None:
    draw([(ROW, MEASURED)], tmp_path, "plots")
    drawn = ElementTree.fromstring((tmp_path / "fan-out-time.svg").read_text())
    texts = {"".join(node.itertext()).strip() for node in drawn.iter("{http://www.w3.org/2000/svg}text")}
    assert {"tailrace: delivered", "naive: delivered", "readers", "ms", "1,000"} <= texts
    assert "tailrace: CPU" not in texts


def test_the_same_figures_give_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        draw([(ROW, MEASURED)], tmp_path / folder, "plots")
    one, two = ({file.name: file.read_bytes() for file in (tmp_path / folder).iterdir()} for folder in ("one", "two"))
    assert one == two
    assert not any(b"<dc:date>" in drawn for drawn in one.values())
