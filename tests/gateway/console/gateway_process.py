"""A gateway as a process of its own, by the command, which a test can kill."""

import asyncio
import os
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


@asynccontextmanager
async def gateway_process(
    server_url: str, namespace: str, port: int, *options: str, **environment: str
) -> AsyncGenerator[Process]:
    """It is ready when the block begins, and gone after it."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tailrace.cli", "serve", "--port", str(port), "--json", "--namespace", namespace, *options),
        env={**ours, "TAILRACE_REDIS_URL": server_url, **environment},
        stdout=PIPE,
        stderr=DEVNULL,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            assert b"ready" in await process.stdout.readline()
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
