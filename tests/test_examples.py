"""The examples, run as a newcomer runs them: each as a program of its own, against a worker that is there."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

from stack import Stack, running_stack
from tailrace import Status, Tailrace
from tailrace.joblog.embedded import EmbeddedServer

# The rehearsal's two verses and its cut into tokens: what the upstream of these tests says is known to the letter.
from tailrace.upstreams._words import VERSES, tokenize
from tailrace.upstreams.local_model import LocalModel, is_installed

EXAMPLES = Path(__file__).parents[1] / "examples"
WATER = "Write me a 1 verse song about sparkling water."
GOLDFISH = "Write me a 1 verse song about goldfish on the moon"
#: Longer than any of them takes, shorter than the test's own limit.
PATIENCE_S = 50

CUT = re.compile(r"(?P<before>.*)\n\(cut off from job (?P<job_id>[\w-]+) after \d+-\d+\)\n(?P<after>.*)", re.DOTALL)
SLOW = re.compile(r"Executing <.*> took [0-9.]+ seconds")


@pytest.fixture(scope="module")
def examples_server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(private=True) as server:
        yield server


@pytest.fixture(scope="module")
def stack(examples_server: EmbeddedServer) -> Iterator[Stack]:
    with running_stack(examples_server.url) as stack:
        yield stack


@pytest.fixture(scope="module")
def model_stack(examples_server: EmbeddedServer) -> Iterator[Stack]:
    if not is_installed():
        pytest.skip("xllamacpp is not installed (extra local-model)")
    with LocalModel() as model, running_stack(examples_server.url, base_url=model.base_url) as stack:
        yield stack


def run(example: str, stack: Stack, *arguments: str) -> str:
    """What the example prints. It fails on a warning (a leak is one) and on anything said on standard error."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", EXAMPLES / example, *arguments],
        env=stack.environment | {"PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
        cwd=os.sep,
    )
    # asyncio's debug mode (of -X dev) tells what took longer than 0.1 s: on a busy machine that is anything.
    said = [line for line in done.stderr.decode().splitlines() if not SLOW.fullmatch(line)]
    assert (done.returncode, said) == (0, [])
    return done.stdout.decode()


def with_bars(pieces: list[str]) -> str:
    return "".join(f"{piece}|" for piece in pieces)


@pytest.mark.parametrize("example", ["blocking_stream.py", "async_stream.py", "unstable_upstream.py"])
def test_each_chunk_is_printed_as_the_upstream_sent_it(example: str, stack: Stack) -> None:
    assert run(example, stack) == with_bars(tokenize(VERSES[WATER]))


def parse_events(output: str) -> list[dict[str, Any]]:
    *lines, last = output.splitlines()
    assert last == "...Truncated"
    return [ast.literal_eval(line) for line in lines]


def test_events_have_langchains_v1_shape_and_the_loop_is_left_after_a_few(stack: Stack) -> None:
    events = parse_events(run("event_stream.py", stack))
    tokens = tokenize(VERSES[GOLDFISH])
    assert [event["event"] for event in events] == ["on_llm_start"] + ["on_llm_stream"] * 3
    assert [event["data"] for event in events[1:]] == [{"chunk": token} for token in tokens[:3]]
    for event in events:
        assert (event["name"], event["parent_ids"], event["tags"]) == ("gpt-3.5-turbo-instruct", [], [])
    assert len({event["run_id"] for event in events}) == 1
    assert len({event["position"] for event in events}) == 4


def test_a_job_goes_on_when_its_reader_leaves(stack: Stack) -> None:
    events = parse_events(run("event_stream.py", stack))
    with Tailrace(settings=stack.settings) as tailrace:
        result = tailrace.job(events[0]["job_id"]).result(timeout=PATIENCE_S)
    assert (result.status, result.text) == (Status.COMPLETED, VERSES[GOLDFISH])


def test_a_reader_that_is_cut_off_goes_on_without_gap_or_repeat(stack: Stack) -> None:
    before, after, _ = in_two(run("resume.py", stack))
    tokens = tokenize(VERSES[WATER])
    assert before == with_bars(tokens[:10])
    assert after == with_bars(tokens[10:])


def in_two(output: str) -> tuple[str, str, str]:
    """What was printed before and after the cut, and the job's id."""
    match = CUT.fullmatch(output)
    assert match is not None, output
    return match["before"], match["after"], match["job_id"]


def test_what_came_before_a_broken_stream_is_delivered_once_then_the_loop_raises(
    examples_server: EmbeddedServer,
) -> None:
    with running_stack(examples_server.url, rehearsal={"fault": "cut", "at": 20}) as stack:
        output = run("unstable_upstream.py", stack)
        assert stack.rehearsal is not None
        assert len(stack.rehearsal.calls) == 2
    text, _, message = output.rpartition("\n" + "The upstream broke: ")
    assert text == with_bars(tokenize(VERSES[WATER])[:20])
    assert message == "upstream_broken (worth another try: True)\n"


def test_a_stream_that_breaks_once_is_whole_in_the_end(examples_server: EmbeddedServer) -> None:
    with running_stack(examples_server.url, rehearsal={"fault": "cut", "at": 20, "times": 1}) as stack:
        output = run("unstable_upstream.py", stack)
    assert output == with_bars(tokenize(VERSES[WATER]))


def test_a_fan_out_collects_every_answer_as_it_ends_and_asks_nothing_twice(examples_server: EmbeddedServer) -> None:
    with running_stack(examples_server.url, rehearsal={"tokens": 5}) as stack:
        first, again = ([json.loads(line) for line in run("fan_out.py", stack, "30").splitlines()] for _ in range(2))
        assert stack.rehearsal is not None
        assert len(stack.rehearsal.calls) == 30
    assert {ended["job"] for ended in first} == {f"squares-{number}" for number in range(1, 31)}
    assert {ended["text"] for ended in first} == {"".join(f" token{number}" for number in range(5))}
    assert sorted(again, key=itemgetter("job")) == sorted(first, key=itemgetter("job"))


def test_a_fan_out_tells_which_of_its_jobs_failed(examples_server: EmbeddedServer) -> None:
    with running_stack(
        examples_server.url, rehearsal={"fault": "status", "code": 400, "key": "any", "times": 1}
    ) as stack:
        ended = [json.loads(line) for line in run("fan_out.py", stack, "5").splitlines()]
    assert sorted("error" in one for one in ended) == [False] * 4 + [True]


def check_pipeline(output: str) -> str:
    """The tree of events that the pipeline prints; the text behind it."""
    *events, text = [line for line in output.split("\n") if line]
    assert [line for line in events if "read" not in line] == [
        "on_chain_start research",
        "  on_chat_model_start plan",
        "  on_chat_model_end plan",
        "on_custom_event notes",
        "  on_chat_model_start write",
        "  on_chat_model_end write",
        "on_chain_end research",
    ]
    assert sorted(line for line in events if "read" in line) == [
        f"  on_chat_model_{phase} read {tag}" for phase in ("end", "start") for tag in ("first", "second")
    ]
    return text


def test_a_pipeline_brings_its_own_worker_and_shows_its_steps(stack: Stack) -> None:
    assert check_pipeline(run("pipeline.py", stack, "seals")).startswith("seals: ")


def test_every_example_is_short_and_says_how_to_run_it() -> None:
    found = sorted(EXAMPLES.glob("*.py"))
    assert len(found) >= 6
    for example in found:
        source = example.read_text()
        assert len(source.splitlines()) < 80, example.name
        how = ast.get_docstring(ast.parse(source)) or ""
        assert f"python examples/{example.name}" in how or f"--app-dir examples {example.stem}:" in how


@pytest.mark.local_model
@pytest.mark.timeout(180)
class TestOnARealModel:
    """The same programs; the words are the model's own."""

    @pytest.mark.parametrize("example", ["blocking_stream.py", "async_stream.py", "unstable_upstream.py"])
    def test_a_song_is_printed_chunk_by_chunk(self, example: str, model_stack: Stack) -> None:
        song = run(example, model_stack)
        assert song.count("|") > 10
        assert song.replace("|", "").strip()

    def test_a_reader_that_is_cut_off_goes_on_without_gap_or_repeat(self, model_stack: Stack) -> None:
        before, after, job_id = in_two(run("resume.py", model_stack))
        assert before.count("|") == 10
        with Tailrace(settings=model_stack.settings) as tailrace:
            assert before + after == with_bars(list(tailrace.job(job_id).stream()))

    def test_the_first_events_of_the_goldfish(self, model_stack: Stack) -> None:
        # So small a model may have little to say about it: then the loop ends before it is left.
        *lines, last = run("event_stream.py", model_stack).splitlines()
        events = [ast.literal_eval(line) for line in ([*lines, last] if last != "...Truncated" else lines)]
        words = [event["event"] for event in events]
        assert words[:2] == ["on_llm_start", "on_llm_stream"]
        assert set(words[2:]) <= {"on_llm_stream", "on_llm_end"}
        assert len(words) == 4 if last == "...Truncated" else words[-1] == "on_llm_end"
        assert events[1]["data"]["chunk"]
