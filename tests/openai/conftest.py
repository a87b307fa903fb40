"""The openai package twice: straight to the rehearsal upstream, and through a worker that asks the same one."""

from collections.abc import Iterator

import openai
import pytest

from stack import Stack, running_stack
from tailrace import Tailrace
from tailrace.openai import OpenAI


@pytest.fixture(scope="session")
def openai_stack(server_url: str) -> Iterator[Stack]:
    with running_stack(server_url) as stack:
        yield stack


@pytest.fixture(scope="session")
def tailrace(openai_stack: Stack) -> Iterator[Tailrace]:
    with Tailrace(settings=openai_stack.settings) as tailrace:
        yield tailrace


@pytest.fixture(scope="session")
def ours(tailrace: Tailrace) -> Iterator[OpenAI]:
    with OpenAI(tailrace=tailrace) as client:
        yield client


@pytest.fixture(scope="session")
def theirs(openai_stack: Stack) -> Iterator[openai.OpenAI]:
    assert openai_stack.rehearsal is not None
    with openai.OpenAI(base_url=openai_stack.rehearsal.base_url, api_key="none", max_retries=0) as client:
        yield client
