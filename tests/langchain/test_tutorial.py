"""LangChain's own tutorial of streaming, as programs in which only the import is another."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stack import Stack, running_stack
from tailrace.upstreams._words import VERSES, tokenize
from tailrace.upstreams.local_model import LocalModel, is_installed

EXAMPLES = Path(__file__).parents[2] / "examples"
WATER = "Write me a 1 verse song about sparkling water."
GOLDFISH = "Write me a 1 verse song about goldfish on the moon"
PATIENCE_S = 50


@pytest.fixture(scope="module")
def model_stack(server_url: str) -> Iterator[Stack]:
    if not is_installed():
        pytest.skip("xllamacpp is not installed (extra local-model)")
    with LocalModel() as model, running_stack(server_url, base_url=model.base_url) as stack:
        yield stack


def run(example: str, stack: Stack, *, quiet: bool = True) -> str:
    """What the program prints. It fails on a warning (a leak is one) and, if it is to be quiet, on anything said on
    standard error."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", EXAMPLES / example],
        env=stack.environment | {"PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
        cwd=os.sep,
    )
    said = done.stderr.decode()
    assert (done.returncode, said if quiet else "") == (0, ""), said
    return done.stdout.decode()


def parsed(output: str) -> list[dict[str, Any]]:
    """The printed events: dicts, but for objects of LangChain, of which no LLM's event has one before its end."""
    return [ast.literal_eval(line) for line in output.splitlines() if line != "...Truncated"]


@pytest.mark.parametrize("example", ["langchain_stream.py", "langchain_astream.py"])
def test_each_chunk_is_printed_as_the_upstream_sent_it(example: str, langchain_stack: Stack) -> None:
    # The last one is that of the finish reason: it has no text.
    pieces = [*tokenize(VERSES[WATER]), ""]
    assert run(example, langchain_stack) == "".join(f"{piece}|" for piece in pieces)


def test_the_first_events_are_printed(langchain_stack: Stack) -> None:
    # LangChain warns of `version="v1"`, which its tutorial asks for, and the loop that is left leaves generators behind, which
    # asyncio closes in an order that httpx2 complains about: with LangChain's own model as well.
    output = run("langchain_astream_events.py", langchain_stack, quiet=False)
    events = parsed(output)
    assert output.endswith("...Truncated\n")
    assert [event["event"] for event in events] == ["on_llm_start"] + ["on_llm_stream"] * 3
    assert [event["data"] for event in events[1:]] == [{"chunk": token} for token in tokenize(VERSES[GOLDFISH])[:3]]
    assert {(event["name"], *event["parent_ids"], *event["tags"]) for event in events} == {("TailraceLLM",)}


@pytest.mark.parametrize("example", ["langchain_stream.py", "langchain_astream.py", "langchain_astream_events.py"])
def test_nothing_but_the_import_says_tailrace(example: str) -> None:
    source = re.sub(r'^""".*?"""\n', "", (EXAMPLES / example).read_text(), flags=re.DOTALL)
    assert re.findall(r".*tailrace.*", source, re.IGNORECASE) == [
        "from tailrace.langchain import TailraceLLM as OpenAI"
    ]


@pytest.mark.local_model
@pytest.mark.timeout(180)
class TestOnARealModel:
    """The same programs; the words are the model's own."""

    @pytest.mark.parametrize("example", ["langchain_stream.py", "langchain_astream.py"])
    def test_a_song_is_printed_chunk_by_chunk(self, example: str, model_stack: Stack) -> None:
        song = run(example, model_stack)
        assert song.count("|") > 10
        assert song.replace("|", "").strip()

    def test_the_first_events_are_printed(self, model_stack: Stack) -> None:
        # So small a model may have little to say about it: then the loop ends before it is left.
        words = [event["event"] for event in parsed(run("langchain_astream_events.py", model_stack, quiet=False))]
        assert words[:2] == ["on_llm_start", "on_llm_stream"]
