"""Canaries: API keys, prompts and passwords are looked for in everything that the processes write."""

import asyncio
import json
import logging
import traceback
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web
from secure_runs import Command, command, run

from engine import engine
from tailrace import AsyncTailrace, BrokerUnavailable, BrokerUnsuitable, InvalidRequest, JobFailed, Settings
from tailrace.joblog import connected
from tailrace.schemas import ErrorDetail, JobRequest, UpstreamSettings
from tailrace.worker.discretion import without_prompt

KEY: Final = "sk-canary-7Yq2Zk9rT4"
PROMPT: Final = "canary prompt Wj8vB3xN: the patient is called Zebulon\nand lives at 12 Heron Lane"
#: Pieces of it, any of which would give it away.
PROMPT_PIECES: Final = ("Wj8vB3xN", "Zebulon", "Heron Lane")
PASSWORD: Final = "canary-password-Qm5"  # nobody's
ANSWER: Final = "an answer"

#: Everything at the lowest level, whatever the program asks for afterwards.
LOUD: Final = """
import logging
logging.basicConfig(level=1, format="%(name)s %(levelname)s %(message)s")
logging.Logger.setLevel = lambda self, level: None
"""


async def _echo(request: web.Request) -> web.StreamResponse:
    """Fails as the model's name says, and repeats all that it was sent."""
    body = await request.text()
    sent: dict[str, Any] = json.loads(body)
    said = json.dumps(sent.get("messages") or sent.get("prompt") or sent.get("input"), ensure_ascii=False)
    told = f"cannot take {sent['messages'][-1]['content']!r} with {request.headers['authorization']}; {said} {body}"
    error = {"error": {"message": told, "type": "x", "code": KEY, "param": said}}
    match sent["model"].split("-"):
        case ["status", status]:
            return web.json_response(error, status=int(status))
        case ["html"]:
            return web.Response(text=f"<p>{told}", content_type="text/html", status=502)
        case ["json"]:
            return web.json_response(error)
        case [how]:
            response = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await response.prepare(request)
            chunk: dict[str, Any] = {"choices": [{"index": 0, "delta": {"content": ANSWER}, "finish_reason": None}]}
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
            match how:
                case "error":
                    await response.write(f"data: {json.dumps(error)}\n\n".encode())
                case "bare":
                    await response.write(f"{json.dumps(error)}\n\n".encode())
                case "event":
                    await response.write(f"event: error\ndata: {told!r}\n\n".encode())
                case "malformed":
                    await response.write(f"data: {told}\n\n".encode())
                case "cut":
                    pass
                case _:
                    chunk["choices"][0] = {"index": 0, "delta": {}, "finish_reason": "stop"}
                    await response.write(f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode())
            return response
        case _:
            raise AssertionError(sent["model"])


async def _models(request: web.Request) -> web.Response:
    return web.json_response({"error": dict(request.headers)}, status=401)


MODELS: Final = (
    "ok", "status-400", "status-401", "status-403", "status-404", "status-429", "status-500", "html", "json", "error", "bare",
    "event", "malformed", "cut",
)  # fmt: skip


@pytest.fixture
async def upstream(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    monkeypatch.setenv("CANARY_KEY", KEY)
    app = web.Application()
    app.router.add_post("/v1/{path:.*}", _echo)
    app.router.add_get("/v1/models", _models)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    await runner.cleanup()


def canaries(text: str, *, password: str = PASSWORD) -> list[str]:
    """Which of them are in the text."""
    return [canary for canary in (KEY, *PROMPT_PIECES, password) if canary in text]


@pytest.mark.timeout(120)
async def test_no_process_writes_a_key_a_prompt_or_a_password(
    real_redis: Any, server_url: str, namespace: str, upstream: str, tmp_path: Path
) -> None:
    password = server_url.split("@")[0].rpartition(":")[2]
    assert len(password) > 8
    (tmp_path / "sitecustomize.py").write_text(LOUD)
    config = tmp_path / "tailrace.toml"
    config.write_text(
        f'[upstreams.default]\nbase_url = "{upstream}"\napi_key_env = "CANARY_KEY"\nmax_retries = 1\n'
        "[worker]\nretry_delay_s = 0.01\nlease_s = 0.5\n"
    )
    env = {
        "PYTHONPATH": str(tmp_path), "PYTHONASYNCIODEBUG": "1", "OPENAI_LOG": "debug", "CANARY_KEY": KEY,
        "TAILRACE_REDIS_URL": server_url, "TAILRACE_NAMESPACE": namespace, "TAILRACE_CONFIG": str(config),
        "PYTHONWARNINGS": "always",
    }  # fmt: skip
    said: list[Command] = []

    async def ran(*arguments: str) -> Command:
        done = await asyncio.to_thread(run, *arguments, env=env)
        said.append(done)
        return done

    settings = Settings(redis_url=server_url, namespace=namespace)
    records = ""
    async with AsyncTailrace(settings=settings) as tailrace:
        with command("worker", env=env) as worker:
            said.append(worker)
            await asyncio.to_thread(worker.wait_for, "serves namespace")
            await ran("submit", PROMPT, "--model", "status-401", "--job-id", "by-command", "--tail", "--json")
            jobs = [await tailrace.submit(PROMPT, model=model, job_id=model, max_attempts=2) for model in MODELS]
            for job in jobs:
                try:
                    await job.result(timeout=20)
                except JobFailed as error:
                    records += f"{error!r} {error.error!r} {''.join(traceback.format_exception(error))}"
                try:
                    records += "".join([repr(record) async for record in job.records()])
                except JobFailed as error:
                    records += str(error)
                try:
                    records += "".join([json.dumps(event) async for event in job.stream_events()])
                except JobFailed as error:
                    records += str(error)
            await ran("tail", "status-400")
            await ran("tail", "error", "--records", "--json")
            await ran("status", "status-500")
            await ran("doctor")
        stored = b""
        async for key in real_redis.scan_iter():
            kept = await real_redis.dump(key)
            # The request is there on purpose, for workers.
            stored += b"" if key.endswith(b":job") and not key.startswith(b"arq:") else kept + key
    for each in said:
        assert "DEBUG" in each.said or each is not worker
        assert not canaries(each.said, password=password), each.said
    assert "openai._base_client DEBUG" in worker.said, "the loggers were not as loud as they can be"
    assert not canaries(records, password=password), records
    assert ANSWER in records
    assert not canaries(stored.decode(errors="replace"), password=password)
    assert PROMPT_PIECES[0].encode() in b"".join([await real_redis.get(f"{namespace}:{{ok}}:job")])


async def test_a_worker_within_a_loud_program_logs_neither(
    real_redis: Any, namespace: str, upstream: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(1)
    for name in ("openai", "aiohttp", "asyncio", "arq", "redis", "httpx2", "httpcore2", "tailrace"):
        monkey = logging.getLogger(name)
        caplog.set_level(1, logger=monkey.name)
    where = {"base_url": upstream, "api_key_env": "CANARY_KEY", "max_retries": 1}
    async with engine(real_redis, namespace, upstream=where) as e:
        for model in MODELS:
            job = await e.tailrace.submit(PROMPT, model=model, max_attempts=2)
            with suppress(JobFailed):
                await job.result(timeout=20)
    logged = "".join(
        f"{record.name} {record.getMessage()} {record.exc_text} {record.args!r}\n" for record in caplog.records
    )
    assert "openai._base_client" in logged
    assert not canaries(logged), logged


@pytest.mark.parametrize(
    "url",
    [
        f"redis://user:{PASSWORD}@127.0.0.1:1/0", f"redis://:{PASSWORD}/x@127.0.0.1:1/0", f"redis://:{PASSWORD}@127.0.0.1:port/0",
        f"redis://:a#{PASSWORD}@127.0.0.1:1/0", f"http://:{PASSWORD}@127.0.0.1", f"rediss://:{PASSWORD}@127.0.0.1:1/0",
        f"{PASSWORD}", f"redis://[{PASSWORD}", f"redis://:{PASSWORD}@127.0.0.1:1/0?health_check_interval={PASSWORD}",
    ],
)  # fmt: skip
async def test_a_password_in_the_redis_url_is_in_no_error(url: str) -> None:
    settings = Settings(redis_url=url)
    assert PASSWORD not in f"{settings!r} {settings} {settings.model_copy()!r}"
    with pytest.raises((BrokerUnavailable, BrokerUnsuitable, InvalidRequest)) as caught:
        async with AsyncTailrace(settings=settings) as tailrace:
            await tailrace.submit("x")
    # The traceback as it is printed: without the lines of this file, which have the password in them.
    told = "".join(traceback.format_exception(caught.value))
    assert PASSWORD not in told
    for arguments in (("submit", "x"), ("doctor", "--no-upstreams", "--json")):
        ran = await asyncio.to_thread(run, *arguments, env={"TAILRACE_REDIS_URL": url})
        assert PASSWORD not in ran.said


async def test_a_wrong_password_is_not_repeated(server_url: str) -> None:
    place = server_url.partition("@")[2]
    scheme = server_url.partition("://")[0]
    async with connected(f"{scheme}://:{PASSWORD}@{place}") as broker:
        with pytest.raises(BrokerUnsuitable) as caught:
            await broker.call("PING")
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))


def test_settings_do_not_show_what_may_hold_a_password() -> None:
    upstream = UpstreamSettings(proxy=f"http://user:{PASSWORD}@127.0.0.1:3128")
    settings = Settings(redis_url=f"redis://:{PASSWORD}@h", upstreams={"default": upstream})
    assert PASSWORD not in f"{settings!r} {settings} {upstream!r} {settings.upstreams}"
    assert PASSWORD in settings.model_dump_json(), "a supervisor hands them on"


class TestDiscretion:
    @staticmethod
    def told(message: str, prompt: str) -> str:
        return without_prompt(ErrorDetail(type="t", message=message), JobRequest.of(prompt)).message

    @pytest.mark.parametrize(
        ("message", "prompt", "told"),
        [
            ("bad: tell me about the river, please!", "tell me about the river, please", "bad: [prompt]!"),
            ("bad: …about the river, ple…", "tell me about the river, please", "bad: …[prompt]…"),
            ('bad: "one line\\nand another line"', "one line\nand another line", 'bad: "one line\\n[prompt]"'),
            ("one line and another line", "one  line\n and another\tline", "[prompt]"),
            ("invalid prompt 'spring'", "spring", "invalid prompt '[prompt]'"),
            ("it is not valid", "it", "it is not valid"),
            ("the model does not exist", "Why does the sun rise?", "the model does not exist"),
        ],
    )
    def test_what_is_quoted_of_the_prompt_is_left_out_and_nothing_else(
        self, message: str, prompt: str, told: str
    ) -> None:
        assert self.told(message, prompt) == told

    def test_a_megabyte_of_prompt_does_not_keep_others_waiting(self) -> None:
        prompt = "".join(f"word{number} " for number in range(100_000))
        assert self.told("x" * 300 + prompt[5000:5100] + "y" * 100, prompt) == "x" * 300 + "[prompt]" + "y" * 100

    def test_chats_and_inputs_are_looked_through_but_not_for_the_names_of_roles(self) -> None:
        message = "invalid role assistant for: the colour of the heron"
        asked = [{"role": "assistant", "content": [{"type": "text", "text": "the colour of the heron"}]}]
        for request in (JobRequest.of(messages=asked), JobRequest.of(input=asked, api="responses")):
            detail = without_prompt(ErrorDetail(type="t", message=message, code="the colour of the heron"), request)
            assert detail.message == "invalid role assistant for: [prompt]"
            assert detail.code == "[prompt]"
