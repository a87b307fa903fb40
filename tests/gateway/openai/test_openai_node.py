"""OpenAI's package for Node, unmodified: node/package.json says which one."""

import asyncio
import json
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from gateways import Served

from node_packages import installed_node_packages

_NODE: Final = Path(__file__).parent / "node"

#: The dresses that have tools and structured output: chat completions, Responses.
both = pytest.mark.parametrize("model", ["rehearsal", "native-model"])


@pytest.fixture(scope="module")
def packages() -> Path:
    """A folder with the package."""
    return installed_node_packages(_NODE)


@pytest.fixture
def play(gateway: Served, packages: Path) -> "Play":
    return Play(f"{gateway.url}/v1", packages)


class Play:
    """Runs the script with the package against the gateway."""

    def __init__(self, base_url: str, packages: Path) -> None:
        self._base_url, self._packages = base_url, packages

    @asynccontextmanager
    async def started(self, scenario: str, *arguments: str) -> AsyncGenerator[Process]:
        command = ["node", str(_NODE / "responses.mjs"), scenario, self._base_url, *arguments]
        # A line is an event, and the last one holds the whole text.
        node = await asyncio.create_subprocess_exec(*command, cwd=self._packages, stdout=PIPE, limit=1 << 20)
        try:
            async with asyncio.timeout(20):
                yield node
        finally:
            if node.returncode is None:
                node.kill()
            await node.wait()

    async def __call__(self, scenario: str, *arguments: str) -> Any:
        """What the script saw."""
        async with self.started(scenario, *arguments) as node:
            said, _ = await node.communicate()
            assert node.returncode == 0
            return json.loads(said)


def counted(tokens: int) -> str:
    return "".join(f" token{number}" for number in range(tokens))


@both
async def test_a_response_is_answered_whole_and_streamed_alike(play: Play, model: str) -> None:
    seen = await play("answers", model)
    assert seen["text"] == seen["streamed"] == seen["final"] == "Water runs."
    assert seen["status"] == "completed"
    assert seen["metadata"] == {"who": "me"}
    assert seen["usage"] > 0
    assert seen["numbers"] == [*range(len(seen["numbers"]))]
    assert seen["types"][0] == "response.created"
    assert seen["types"][-1] == "response.completed"
    assert seen["items"] == ["Hello"]


@both
async def test_tools_are_called_and_structured_output_is_parsed(play: Play, model: str) -> None:
    seen = await play("tools", model)
    assert seen["name"] == "weather"
    assert seen["arguments"] == seen["fragments"]
    assert "place" in json.loads(seen["arguments"])
    assert seen["text"] == "It rains."
    assert (seen["title"], seen["lines"]) == ("string", True)


@both
async def test_a_response_in_the_background_is_retrieved_while_it_runs_cancelled_and_deleted(
    play: Play, model: str
) -> None:
    seen = await play("background", model)
    assert seen["begun"] in ("queued", "in_progress")
    assert seen["background"] is True
    assert seen["partial"] == "in_progress"
    assert seen["cancelled"] == ["cancelled", "cancelled"]
    assert " token3" in seen["text"]
    assert counted(400).startswith(seen["text"])
    assert seen["deleted"]["name"] == "NotFoundError"


@both
async def test_a_process_is_killed_in_mid_stream_and_another_one_goes_on(play: Play, model: str) -> None:
    events: list[Any] = []
    async with play.started("begin", model) as node:
        assert node.stdout is not None
        while len(events) < 15:
            events.append(json.loads(await node.stdout.readline()))
        node.kill()
    job_id, last = events[0]["response"]["id"], events[-1]["sequence_number"]
    seen = await play("resume", model, job_id, str(last))
    assert seen["running"] == "in_progress"
    events += seen["rest"]
    assert [event["sequence_number"] for event in events] == [*range(len(events))]
    assert events == seen["again"]
    assert seen["helped"] == [*range(last + 1, len(events))]
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert "".join(deltas) == seen["text"] == counted(200)
    assert events[-1]["type"] == "response.completed"
    assert seen["status"] == "completed"


@both
async def test_errors_are_those_of_the_package(play: Play, model: str) -> None:
    seen = await play("errors", model)
    assert (seen["unknown"]["name"], seen["unknown"]["status"]) == ("NotFoundError", 404)
    assert (seen["wrong"]["name"], seen["wrong"]["param"]) == ("BadRequestError", "input")
    assert (seen["refused"]["name"], seen["refused"]["status"]) == ("RateLimitError", 429)
    assert seen["last"] == "response.failed"
    assert (seen["kept"], seen["code"]) == ("failed", "server_error")
    assert seen["text"] == counted(4)


async def test_a_chat_is_streamed_and_a_broken_one_is_an_error(play: Play) -> None:
    seen = await play("chat", "rehearsal")
    assert seen["text"] == counted(20)
    assert seen["broken"]["name"] == "APIError"
