"""A worker on a real server that asks the rehearsal upstream, and a client of it, once for all tests of this room."""

from collections.abc import Iterator

import pytest

from stack import Stack, running_stack
from tailrace import Tailrace


@pytest.fixture(scope="session")
def langchain_stack(server_url: str) -> Iterator[Stack]:
    with running_stack(server_url) as stack:
        yield stack


@pytest.fixture(scope="session")
def tailrace(langchain_stack: Stack) -> Iterator[Tailrace]:
    with Tailrace(settings=langchain_stack.settings) as tailrace:
        yield tailrace
