"""A whole tailrace in one call, for tests of what a user does: a private server, an upstream, a running worker.

    with running_stack(url, rehearsal={"fault": "cut", "at": 5}) as stack:
        subprocess.run([...], env=stack.environment)

The worker lives on an event loop in a thread of its own, so blocking tests and other processes can use it.
"""

import asyncio
import os
import uuid
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from anyio.from_thread import start_blocking_portal

from tailrace import Settings
from tailrace.schemas import UpstreamSettings
from tailrace.upstreams.rehearsal import Rehearsal
from tailrace.worker.app import Worker


@dataclass(frozen=True)
class Stack:
    """Where it runs, and the rehearsal that its worker asks (None with an upstream of the caller's)."""

    settings: Settings
    rehearsal: Rehearsal | None

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in order to use it: this one's environment, without settings of the machine's."""
        mine = {name: value for name, value in os.environ.items() if not name.startswith(("TAILRACE_", "OPENAI_"))}
        assert self.settings.redis_url is not None
        return mine | {"TAILRACE_REDIS_URL": self.settings.redis_url, "TAILRACE_NAMESPACE": self.settings.namespace}


@asynccontextmanager
async def _running(
    redis_url: str, script: Mapping[str, Any] | None, base_url: str | None, worker: Mapping[str, Any]
) -> AsyncGenerator[Stack]:
    async with AsyncExitStack() as resources:
        rehearsal = None
        if base_url is None:
            rehearsal = await resources.enter_async_context(Rehearsal(script=script))
            base_url = rehearsal.base_url
        settings = Settings(
            redis_url=redis_url,
            namespace=f"test-{uuid.uuid4().hex[:12]}",
            upstreams={"default": UpstreamSettings(base_url=base_url, api_key_env="")},
            worker={"retry_delay_s": 0.01, **worker},  # type: ignore[arg-type]  # pydantic makes a section of it  # pyright: ignore[reportArgumentType]
        )
        engine = await resources.enter_async_context(Worker(settings))
        running = asyncio.create_task(engine.run(), name="test-worker")
        try:
            yield Stack(settings, rehearsal)
        finally:
            await engine.drain(0)
            with suppress(asyncio.CancelledError):
                await running


@contextmanager
def running_stack(
    redis_url: str,
    *,
    rehearsal: Mapping[str, Any] | None = None,
    base_url: str | None = None,
    worker: Mapping[str, Any] | None = None,
) -> Generator[Stack]:
    """A worker on the server at `redis_url`, in a namespace of its own, that asks `base_url` or a rehearsal upstream
    with this script; `worker` are settings of the section of that name."""
    with (
        start_blocking_portal("asyncio", name="test-stack") as portal,
        portal.wrap_async_context_manager(_running(redis_url, rehearsal, base_url, worker or {})) as stack,
    ):
        yield stack
