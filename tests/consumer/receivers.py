"""A receiver of webhooks, built on the official OpenAI SDK, that answers as a test says."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web
from openai import OpenAI
from redis.asyncio import Redis

from tailrace import Settings
from tailrace.consumer.webhooks import Webhooks
from tailrace.joblog import Broker

SECRET: Final = "whsec_Y2FuYXJ5LWNhbmFyeS1jYW5hcnktY2FuYXJ5"
ENVIRONMENT: Final = {"HOOK_SECRET": SECRET}


@dataclass
class Receiver:
    """What has come, each message checked and parsed by the SDK; `answers` are given in turn, then 204."""

    url: str = ""
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list[tuple[int, dict[str, str]]])
    events: list[Any] = field(default_factory=list[Any])
    headers: list[Mapping[str, str]] = field(default_factory=list[Mapping[str, str]])
    bodies: list[bytes] = field(default_factory=list[bytes])
    elsewhere: int = 0
    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    """Answers wait for it."""

    def __post_init__(self) -> None:
        self.let_go.set()

    async def _take(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        with OpenAI(api_key="none", webhook_secret=SECRET) as sdk:
            self.events.append(sdk.webhooks.unwrap(body, request.headers))
        self.headers.append(dict(request.headers))
        self.bodies.append(body)
        await self.let_go.wait()
        status, headers = self.answers.pop(0) if self.answers else (204, {})
        if status == 299:  # well, and then a body without end
            response = web.StreamResponse(status=200)
            await response.prepare(request)
            while True:
                await response.write(b"x" * 65536)
        return web.Response(status=status, headers=headers, text="" if status == 204 else "whatever")

    async def _elsewhere(self, _: web.Request) -> web.Response:
        self.elsewhere += 1
        return web.Response()


@asynccontextmanager
async def receiver(*answers: int | tuple[int, dict[str, str]]) -> AsyncGenerator[Receiver]:
    took = Receiver(answers=[answer if isinstance(answer, tuple) else (answer, {}) for answer in answers])
    application = web.Application()
    application.router.add_post("/hook/canary-path", took._take)  # pyright: ignore[reportPrivateUsage]  # its own
    application.router.add_route("*", "/elsewhere", took._elsewhere)  # pyright: ignore[reportPrivateUsage]  # its own
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        took.url = f"http://{host}:{port}/hook/canary-path?key=canary-query"
        yield took
    finally:
        took.let_go.set()
        await runner.cleanup()


def hook(url: str, **fields: Any) -> dict[str, Any]:
    """The settings of a receiver on this machine, which is impatient."""
    return {
        "url": url,
        "secret_env": "HOOK_SECRET",
        "allow_private": True,
        "first_pause_s": 0.01,
        "longest_pause_s": 0.05,
        **fields,
    }


def settings_of(namespace: str, **hooks: dict[str, Any]) -> Settings:
    return Settings.model_validate({"namespace": namespace, "webhooks": hooks})


@asynccontextmanager
async def delivering(
    redis: Redis, settings: Settings, environment: Mapping[str, str] = ENVIRONMENT
) -> AsyncGenerator[Webhooks]:
    """Webhooks that deliver while the block runs, and drain at its end."""
    webhooks = Webhooks(settings, Broker(redis), environment=environment)
    running = asyncio.create_task(webhooks.run())
    try:
        yield webhooks
    finally:
        webhooks.drain()
        await running
