"""The cases of Open Responses that go over a WebSocket, asked without anybody's package."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from open_responses import CHAT, LAST, NATIVE, Dressed, check_events, dressed
from redis.asyncio import Redis
from test_openai_responses import told
from websockets.asyncio.client import ClientConnection, connect

BOTH: Final = pytest.mark.parametrize("model", [CHAT, NATIVE])


@pytest.fixture
async def here(real_redis: Redis, namespace: str) -> AsyncGenerator[Dressed]:
    async with dressed(real_redis, namespace) as started:
        yield started


class Socket:
    """A connection that is asked for one response after the other."""

    def __init__(self, connection: ClientConnection, model: str) -> None:
        self._connection, self._model = connection, model

    async def ask(self, **body: Any) -> list[dict[str, Any]]:
        """The events of one response, or the error that comes instead."""
        create = {"type": "response.create", "model": self._model, **body}
        await self._connection.send(json.dumps(create))
        events: list[dict[str, Any]] = []
        while not events or events[-1]["type"] not in LAST:
            events.append(json.loads(await self._connection.recv()))
        return events

    async def unstored(self, **body: Any) -> list[dict[str, Any]]:
        return await self.ask(store=False, **body)


@asynccontextmanager
async def socket(here: Dressed, model: str) -> AsyncGenerator[Socket]:
    url = here.gateway.url.replace("http", "ws", 1)
    async with connect(f"{url}/v1/responses", open_timeout=10) as connection:
        yield Socket(connection, model)


def refused(events: list[dict[str, Any]]) -> str:
    """The code of the error that is all the answer."""
    (error,) = events
    assert (error["type"], error["status"]) == ("error", 400)
    assert error["error"]["message"]
    return str(error["error"]["code"])


@BOTH
async def test_a_response_comes_as_the_events_that_a_stream_has(here: Dressed, model: str) -> None:
    given = [{"type": "message", "role": "user", "content": "Count."}]
    async with socket(here, model) as asking:
        response = check_events(await asking.ask(input=given, **told(tokens=3)))
    assert (response.status, response.said) == ("completed", " token0 token1 token2")


@BOTH
async def test_one_response_follows_another(here: Dressed, model: str) -> None:
    async with socket(here, model) as asking:
        for text in ("first", "second"):
            assert check_events(await asking.unstored(input=text, **told(text=text))).said == text
            assert here.asked(model) == [("user", text)]


@BOTH
async def test_what_is_not_stored_is_gone_on_from_over_the_connection_that_made_it(here: Dressed, model: str) -> None:
    async with socket(here, model) as asking:
        previous = check_events(await asking.unstored(input="The word is heron.", **told(text="Noted.")))
        for number in (1, 2):
            # Neither that the log has gone changes anything: the connection has its own.
            await here.gateway.http.delete(f"/v1/responses/{previous.id}")
            more = await asking.unstored(
                previous_response_id=previous.id, input="Which?", **told(text=f"Heron {number}.")
            )
            response = check_events(more)
            assert response.previous_response_id == previous.id
            previous = response
    assert here.asked(model) == [
        ("user", "The word is heron."), ("assistant", "Noted."), ("user", "Which?"), ("assistant", "Heron 1."),
        ("user", "Which?"),
    ]  # fmt: skip


@BOTH
async def test_what_is_not_stored_is_unknown_to_other_connections_which_begin_anew(here: Dressed, model: str) -> None:
    async with socket(here, model) as asking:
        first = check_events(await asking.unstored(input="The word is heron."))
    again = {"input": "Which?", "previous_response_id": first.id}
    async with socket(here, model) as asking:
        assert refused(await asking.unstored(**again)) == "previous_response_not_found"
        assert check_events(await asking.unstored(input="Hello.")).status == "completed"
    answer = await here.gateway.http.post("/v1/responses", json={"model": model, **again})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "previous_response_not_found")


async def test_a_previous_response_that_never_was_is_not_found(here: Dressed) -> None:
    async with socket(here, CHAT) as asking:
        missing = await asking.unstored(input="x", previous_response_id="resp_never_was")
        assert refused(missing) == "previous_response_not_found"


@BOTH
async def test_nothing_goes_on_from_where_going_on_has_failed(here: Dressed, model: str) -> None:
    orphan = [{"type": "function_call_output", "call_id": "call_of_nobody", "output": "42"}]
    failing: tuple[dict[str, Any], ...] = ({"input": orphan}, {"input": "x", **told(fault="status", code=400)})
    for failure in failing:
        async with socket(here, model) as asking:
            first = check_events(await asking.unstored(input="The word is heron."))
            refused(await asking.unstored(previous_response_id=first.id, **failure))
            stale = await asking.unstored(previous_response_id=first.id, input="Which?")
            assert refused(stale) == "previous_response_not_found"


@BOTH
async def test_nothing_goes_on_from_where_a_response_broke_off(here: Dressed, model: str) -> None:
    async with socket(here, model) as asking:
        first = check_events(await asking.unstored(input="The word is heron."))
        broken = await asking.ask(previous_response_id=first.id, input="Go on.", **told(tokens=4, fault="failed", at=2))
        assert broken[-1]["type"] == "response.failed"
        stale = await asking.unstored(previous_response_id=first.id, input="Which?")
        assert refused(stale) == "previous_response_not_found"


@BOTH
async def test_what_is_stored_is_gone_on_from_after_a_failure_too(here: Dressed, model: str) -> None:
    async with socket(here, model) as asking:
        first = check_events(await asking.ask(input="The word is heron."))
        refused(await asking.ask(previous_response_id=first.id, input=3))
    async with socket(here, model) as asking:
        response = check_events(await asking.ask(previous_response_id=first.id, input="Which?"))
    assert response.previous_response_id == first.id


@BOTH
async def test_a_compacted_conversation_begins_a_new_chain(here: Dressed, model: str) -> None:
    said = [("user", "The word is slate."), ("assistant", "Good."), ("user", "Remember it.")]
    given = [{"type": "message", "role": role, "content": text} for role, text in said]
    compacted = await here.compact(model=model, input=given, **told(text="I was told a word."))
    begins = [item.as_sent() for item in compacted.output]
    more = {"type": "message", "role": "user", "content": "Which word?"}
    async with socket(here, model) as asking:
        response = check_events(await asking.unstored(input=[*begins, more], tools=[], **told(text="Slate.")))
    assert response.said == "Slate."
    assert response.previous_response_id is None
    summary = "Summary of the conversation so far:\n\nI was told a word."
    assert here.asked(model) == [
        ("user", "The word is slate."), ("user", "Remember it."), ("assistant", summary), ("user", "Which word?"),
    ]  # fmt: skip
