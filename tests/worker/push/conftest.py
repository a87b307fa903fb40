"""Every test of the transport on each event loop, with a client over it; none may leave a task behind."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from importlib import import_module
from importlib.util import find_spec

import httpx2
import pytest
from push_peers import PATIENCE_S, client_over

from tailrace.worker.push import PushTransport
from tls_certificates import Certificates, certificates


@pytest.hookimpl(optionalhook=True)  # older versions of pytest-asyncio have one loop only
def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if find_spec("uvloop") is not None:
        loops["uvloop"] = import_module("uvloop").new_event_loop
    return loops


@pytest.fixture(autouse=True)
async def no_task_is_left() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    async with asyncio.timeout(PATIENCE_S):
        while asyncio.all_tasks() - before - {asyncio.current_task()}:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0)


@pytest.fixture
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    """A client over the transport, for servers without TLS."""
    async with client_over(PushTransport(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))) as client:
        yield client


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("push_tls"))
