"""Calls that are open when the gateway closes, and calls that only follow a job that there is."""

import asyncio
from typing import Any, Final

import httpx2
import openai
import pytest
from gateways import Served, served
from test_openai_responses import told

from engine import wait_until

WAITING: Final = told(fault="stall", at=0)


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("responses", {"input": "x"}),
        ("responses", {"input": "x", "stream": True}),
        ("responses/compact", {"input": "x"}),
        ("chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
        ("chat/completions", {"messages": [{"role": "user", "content": "x"}], "stream": True}),
        ("completions", {"prompt": "x"}),
    ],
)
async def test_a_call_that_waits_for_its_job_is_told_which_when_the_gateway_closes(
    gateway: Served, path: str, asked: dict[str, Any]
) -> None:
    async with served(gateway.engine) as closing, httpx2.AsyncClient(base_url=closing.url, timeout=10) as http:
        grace: Any = 0.1
        closing.server.config.timeout_graceful_shutdown = grace
        body = {"model": "rehearsal", **WAITING, **asked}
        headers = {"x-tailrace-job-id": f"job-{path.replace('/', '-')}", "x-tailrace-cancel-on-close": "true"}
        call = asyncio.create_task(http.post(f"/v1/{path}", json=body, headers=headers))
        await wait_until("the job waits for its upstream", lambda: gateway.engine.rehearsal.open_streams)
        closing.server.stop()
        answer = await call
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "closing")
    assert int(answer.headers["retry-after"]) > 0
    job_id = answer.headers["x-tailrace-job-id"]
    assert job_id == headers["x-tailrace-job-id"]
    # It goes on, and is there for whoever comes back: the client has not gone, the gateway has.
    assert (await gateway.http.get(f"/v1/jobs/{job_id}")).json()["status"] == "in_progress"
    await gateway.http.post(f"/v1/jobs/{job_id}/cancel")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_job_is_resumed_without_saying_again_what_was_asked(client: openai.AsyncOpenAI, stream: bool) -> None:
    create: Any = client.chat.completions.create
    asked: Any = [{"role": "user", "content": "x"}]
    first = await create(
        model="rehearsal", messages=asked, extra_body=told(tokens=3), extra_headers={"x-tailrace-job-id": "chat"}
    )
    legacy: Any = client.completions.create
    before = await legacy(
        model="legacy-model", prompt="x", extra_body=told(tokens=3), extra_headers={"x-tailrace-job-id": "legacy"}
    )
    chat = await create(model="rehearsal", messages=[], stream=stream, extra_headers={"x-tailrace-resume": "chat"})
    text = await legacy(model="legacy-model", prompt="", stream=stream, extra_headers={"x-tailrace-resume": "legacy"})
    if not stream:
        assert chat.choices[0].message.content == first.choices[0].message.content
        assert text.choices[0].text == before.choices[0].text
        return
    told_again = [chunk.choices[0].delta.content or "" async for chunk in chat]
    assert "".join(told_again) == first.choices[0].message.content
    assert "".join([chunk.choices[0].text async for chunk in text]) == before.choices[0].text


@pytest.mark.parametrize(
    ("path", "param", "empty"),
    [("chat/completions", "messages", []), ("completions", "prompt", []), ("completions", "prompt", "")],
)
async def test_what_asks_for_nothing_and_resumes_nothing_is_400(
    gateway: Served, path: str, param: str, empty: Any
) -> None:
    answer = await gateway.http.post(f"/v1/{path}", json={"model": "rehearsal", param: empty})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
