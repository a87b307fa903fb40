"""What happens inside a runnable while it runs: LangChain's events, and the errors that LangChain has no event for."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, Self, TypeAlias, cast
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler, BaseCallbackManager

#: A happening comes through LangChain's channel to us within one turn of the event loop. An error, of which we hear at once,
#: waits for longer, so that it comes after what happened before it.
_TURNS: Final = 3


@dataclass(frozen=True, slots=True)
class RunFailed:
    """A run has ended with an error."""

    run_id: str
    error: BaseException


@dataclass(frozen=True, slots=True)
class Over:
    """Nothing follows."""

    error: Exception | None
    """What the runnable has raised."""


Happening: TypeAlias = Mapping[str, Any] | RunFailed | Over
StreamEvents: TypeAlias = Callable[..., AsyncIterator[Mapping[str, Any]]]


async def happenings(
    astream_events: StreamEvents, given: object, config: Mapping[str, Any]
) -> AsyncGenerator[Happening]:
    """Run it, and tell what happens, in order; at last that it is over. Leaving early cancels it and waits for its end."""
    queue: asyncio.Queue[Happening] = asyncio.Queue()
    errors = _Errors(asyncio.get_running_loop(), queue)
    running = asyncio.create_task(
        _run(astream_events, given, with_handler(config, errors), errors, queue), name="tailrace-runnable"
    )
    try:
        while True:
            happening = await queue.get()
            yield happening
            if isinstance(happening, Over):
                return
    finally:
        running.cancel()
        await asyncio.wait([running])


async def _run(
    astream_events: StreamEvents,
    given: object,
    config: Mapping[str, Any],
    errors: "_Errors",
    queue: "asyncio.Queue[Happening]",
) -> None:
    error = None
    try:
        # The channel between a runnable and its events has no bound either, so nothing is lost by reading it at once.
        events = cast("AsyncGenerator[Mapping[str, Any]]", astream_events(given, config=config, version="v2"))
        async with aclosing(events):
            async for event in events:
                queue.put_nowait(event)
    except Exception as raised:
        error = raised
    errors.flush()
    queue.put_nowait(Over(error))


def with_handler(config: Mapping[str, Any], handler: BaseCallbackHandler) -> dict[str, Any]:
    """The config with one more handler of callbacks."""
    callbacks = config.get("callbacks")
    if isinstance(callbacks, BaseCallbackManager):
        callbacks = callbacks.copy()
        callbacks.add_handler(handler, inherit=True)
        return {**config, "callbacks": callbacks}
    return {**config, "callbacks": [*(callbacks or ()), handler]}


class _Errors(AsyncCallbackHandler):
    """Hears of errors, in the event loop or in a thread."""

    # Not inline: beside a handler that is, langchain-core 1.7 tells no other handler that a completion has begun.
    run_inline = False

    @property
    def ignore_chat_model(self) -> bool:
        """Of starts. A chat model's error comes as any model's."""
        return True

    def __init__(self, loop: asyncio.AbstractEventLoop, queue: "asyncio.Queue[Happening]") -> None:
        self._loop, self._queue = loop, queue
        self._waiting: list[RunFailed] = []

    def flush(self) -> None:
        """Tell all that wait: nothing comes before them any more."""
        while self._waiting:
            self._queue.put_nowait(self._waiting.pop(0))

    async def on_chain_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self._hear(error, run_id)

    async def on_llm_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self._hear(error, run_id)

    async def on_retriever_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self._hear(error, run_id)

    async def on_tool_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        # LangChain's own event of it says more and comes first, in the versions that have one.
        self._hear(error, run_id)

    def _hear(self, error: BaseException, run_id: UUID) -> None:
        self._loop.call_soon_threadsafe(self._wait, RunFailed(str(run_id), error))

    def _wait(self, failed: RunFailed) -> None:
        self._waiting.append(failed)
        self._turn(failed, _TURNS)

    def _turn(self, failed: RunFailed, turns: int) -> None:
        if turns:
            self._loop.call_soon(self._turn, failed, turns - 1)
        elif failed in self._waiting:
            self._waiting.remove(failed)
            self._queue.put_nowait(failed)

    # LangChain copies configs, handlers and all.
    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self
