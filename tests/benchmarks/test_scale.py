"""The arithmetic of docs/scaling.md: that it is right, and that the page has it."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from benchmarks.scale import Bill, Load, Needs, read_figures
from benchmarks.traffic import Count, count_of

from benchmarks import scale
from documentation import blocks_of, commands_of

ROOT: Final = Path(__file__).parent.parent.parent
PAGE: Final = ROOT / "docs" / "scaling.md"
FIGURES: Final = ROOT / "docs" / "performance.md"
TRAFFIC: Final = ROOT / "benchmarks" / "traffic.json"

NEEDS: Final = Needs(
    worker_token_us=50.0,
    worker_open_us=1000.0,
    worker_stream_bytes=1e5,
    log_token_us=20.0,
    log_job_us=100.0,
    live_job_bytes=1000.0,
    live_token_bytes=20.0,
    ended_job_bytes=500.0,
    ended_token_bytes=5.0,
    reader_token_us=30.0,
    gateway_delivery_us=10.0,
    gateway_connection_bytes=1e4,
    queue_job_us=100.0,
    queue_stream_s_us=10.0,
    append_bytes=200.0,
    delivery_bytes=100.0,
    job_bytes=3000.0,
)
LOAD: Final = Load(streams=100_000, rate=10.0, tokens=100, readers=2.0, retention_s=100.0, full=0.5)


def test_a_bill_is_what_each_token_job_and_stream_needs_times_their_number() -> None:
    bill = Bill(LOAD, NEEDS)
    assert (LOAD.tokens_s, LOAD.jobs_s) == (1_000_000, 10_000)
    assert bill.workers == 2 * (50 + 10)
    assert bill.worker_bytes == 1e10
    assert bill.primaries == 2 * (20 + 1)
    assert bill.live_bytes == 100_000 * (1000 + 20 * 50)
    assert bill.ended_bytes == 10_000 * 100 * (500 + 5 * 100)
    assert bill.queue_cores == pytest.approx(1.0 + 1.0)
    assert bill.queues == 4
    assert bill.gateways == 2 * 2 * 40
    assert bill.gateway_bytes == 2e9
    assert bill.written_s == 1e6 * 200 + 1e4 * 3000
    assert bill.read_s == 2e8
    assert bill.cores == 120 + 160 + 2 * 42 + 3 * 4
    assert bill.price(0.5) == pytest.approx(bill.cores * 0.5 / 3600)


def test_whatever_is_needed_at_all_needs_a_process() -> None:
    bill = Bill(replace(LOAD, streams=1), NEEDS)
    assert (bill.workers, bill.primaries, bill.queues, bill.gateways) == (1, 1, 1, 1)


def test_figures_are_read_with_their_units() -> None:
    page = (
        "### memory\n| tailrace | a | 1,776 B | 5 |\n| naive | a | 3 B |\n"
        "### time\n| tailrace | a | 1.04 ms |\n| tailrace | b | 2.5 KiB |\n"
    )
    assert read_figures(page) == {("memory", "a"): 1776.0, ("time", "a"): 1040.0, ("time", "b"): 2560.0}


def test_the_table_of_the_page_is_what_the_figures_of_the_other_page_come_to() -> None:
    """After new figures: `python -m benchmarks.scale --write`."""
    needs = scale.measured(FIGURES, TRAFFIC)
    bills = [Bill(Load(streams), needs) for streams in scale.STREAMS]
    assert scale.section(bills) in PAGE.read_text(encoding="utf-8")


def test_figures_that_the_page_names_are_those_of_the_table() -> None:
    """The section behind the table rounds them."""
    needs = scale.measured(FIGURES, TRAFFIC)
    text = PAGE.read_text(encoding="utf-8")
    for told in (
        f"{needs.append_bytes:.0f} bytes to the logs",
        f"some {round(needs.queue_job_us, -1):.0f} us a job and {needs.queue_stream_s_us:.0f} us for each second",
        f"{needs.delivery_bytes:.0f} bytes a token",
        f"{int(needs.log_token_us)} us a token, {round(needs.log_job_us, -2):.0f} us a job",
        f"{needs.reader_token_us:.0f} us a token to follow",
        f"{needs.ended_token_bytes:.1f} bytes a token and {needs.ended_job_bytes:,.0f} a job",
    ):
        assert told in text, told


def test_the_commands_of_the_page_run() -> None:
    (block,) = [block for block in blocks_of(PAGE) if block.run_by == "tests/benchmarks/test_scale.py"]
    commands = commands_of(block.code)
    said: list[str] = []
    for command in commands:
        python, *arguments = command.line.split()
        assert python == "python"
        done = subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=50, check=False
        )
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert "| 50,000 streams |" in said[0]
    assert "6.5 us a token" in said[1]
    assert "60 us a job" in said[1]


def test_an_unknown_figure_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        scale.main(["--set", "nothing=1"])
    assert "there are worker_token_us" in capsys.readouterr().err


def test_counters_of_servers_are_added_and_shared() -> None:
    infos = [
        {"used_cpu_user": 1.0, "used_cpu_sys": 0.5, "total_net_input_bytes": 10, "total_net_output_bytes": 20},
        {
            "used_cpu_user": 0.5,
            "used_cpu_sys": 0.0,
            "total_net_input_bytes": 2,
            "total_net_output_bytes": 4,
            "total_net_repl_output_bytes": 6,
        },
    ]
    assert count_of(infos).since(Count(cpu_us=1e6)).each(2) == Count(5e5, 6.0, 12.0, 3.0)


def test_traffic_is_counted_on_two_servers(tmp_path: Path) -> None:
    written = tmp_path / "traffic.json"
    few = ["--streams", "3", "--rate", "20", "--seconds", "0.5", "--jobs", "5", "--json", str(written)]
    command = [sys.executable, "-m", "benchmarks.traffic", *few]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(written.read_text())
    assert found.keys() == json.loads(TRAFFIC.read_text()).keys()
    assert found["token"]["taken"] > 20
    assert found["token_read"]["given"] > found["token"]["given"]
    assert found["queue_job"]["cpu_us"] > 0
