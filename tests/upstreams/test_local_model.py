"""The local model: a real language model, started once for all of these tests."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from openai import AsyncOpenAI

from tailrace.upstreams.local_model import LocalModel

pytestmark = [pytest.mark.local_model, pytest.mark.timeout(180)]

SONG = "Write me a 1 verse song about sparkling water."
HI: Any = [{"role": "user", "content": "Say hello."}]


async def test_it_answers_in_three_apis_whatever_model_is_named(local_model: LocalModel) -> None:
    async with AsyncOpenAI(base_url=local_model.base_url, api_key="any") as client:
        stream = await client.completions.create(
            model="gpt-3.5-turbo-instruct", prompt=SONG, temperature=0, max_tokens=24, stream=True
        )
        chunks = [chunk async for chunk in stream]
        assert len([c for c in chunks if c.choices and c.choices[0].text]) > 10
        assert chunks[-1].choices[0].finish_reason == "length"
        chat = await client.chat.completions.create(model="gpt-4o-mini", messages=HI, max_tokens=8)
        assert chat.choices[0].message.content
        response = await client.responses.create(model="gpt-4o", input="Say hello.", max_output_tokens=8)
        assert response.output_text


@pytest.mark.parametrize("prompt", [" ", "The end.", "Write me a 1 verse song about goldfish on the moon"])
async def test_it_never_answers_with_nothing(local_model: LocalModel, prompt: str) -> None:
    async with AsyncOpenAI(base_url=local_model.base_url, api_key="any") as client:
        answer = await client.completions.create(model="x", prompt=prompt, temperature=0, max_tokens=8)
        assert answer.choices[0].text


async def test_a_schema_of_the_request_replaces_the_own_grammar(local_model: LocalModel) -> None:
    schema: Any = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    form: Any = {"type": "json_schema", "json_schema": {"name": "cat", "schema": schema}}
    async with AsyncOpenAI(base_url=local_model.base_url, api_key="any") as client:
        answer = await client.chat.completions.create(
            model="x", messages=HI, response_format=form, temperature=0, max_tokens=40
        )
    assert (answer.choices[0].message.content or "").lstrip().startswith("{")


STARTER = """
import time
from tailrace.upstreams.local_model import LocalModel
with LocalModel(parallel=1, context=512) as model:
    print(model.pid, flush=True)
    time.sleep(60)
"""


async def test_it_ends_when_its_starter_is_killed(local_model: LocalModel) -> None:
    def kill_and_watch() -> bool:
        with subprocess.Popen([sys.executable, "-c", STARTER], stdout=subprocess.PIPE) as starter:
            assert starter.stdout is not None
            pid = int(starter.stdout.readline())
            os.kill(starter.pid, signal.SIGKILL)
        gives_up = time.monotonic() + 10
        while os.path.exists(f"/proc/{pid}/exe") and time.monotonic() < gives_up:
            time.sleep(0.01)
        return not os.path.exists(f"/proc/{pid}/exe")

    assert await asyncio.to_thread(kill_and_watch)
