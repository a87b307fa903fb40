"""A gateway over an engine with an upstream in each dress, and OpenAI's own package as its client, unmodified."""

from collections.abc import AsyncGenerator

import openai
import pytest
from gateways import Served, served
from redis.asyncio import Redis

from engine import engine
from tailrace.upstreams.rehearsal import Rehearsal


@pytest.fixture
async def gateway(real_redis: Redis, namespace: str) -> AsyncGenerator[Served]:
    """The default upstream speaks chat completions only; `legacy-model` and `native-model` are of two that speak legacy
    completions and Responses."""
    async with Rehearsal() as other:
        # Without retries of the request, whose pauses would be most of the time that these tests take.
        base = {"base_url": other.base_url, "api_key_env": "", "max_retries": 0}
        upstreams = {
            "legacy": {**base, "api": "completions", "models": ["legacy-model"]},
            "native": {**base, "api": "responses", "models": ["native-model"]},
        }
        running = engine(real_redis, namespace, upstream={"max_retries": 0}, upstreams=upstreams)
        async with running as started, served(started) as gateway:
            yield gateway


@pytest.fixture
async def client(gateway: Served) -> AsyncGenerator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        yield client
