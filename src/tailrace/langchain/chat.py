"""The chat model."""

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from typing import Any, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_openai import ChatOpenAI

from tailrace.langchain.below import RunsAsJobs, astamped, named, resuming, stamp, stamped
from tailrace.schemas import START, Position


class ChatTailrace(RunsAsJobs, ChatOpenAI):  # type: ignore[override, unused-ignore]  # as ChatOpenAI itself has it
    """`ChatOpenAI` whose calls run as jobs. Takes all of its arguments, and these; needs no key.

    The id of a call's job is `response_metadata["job_id"]` of its message (in a stream: of its first chunk). To choose
    it: `model.invoke(..., job_id="...")`, in a chain `model.bind(job_id="...")`. Follow it again from any process:
    `resume(job_id)`.
    """

    stream_usage: bool | None = True

    @property
    def _llm_type(self) -> str:
        return "chat-tailrace"

    def resume(self, job_id: str, *, after: Position | str = START) -> Generator[AIMessageChunk]:
        """Yield an existing job's chunks, from its beginning or from just after a position, live or late.

        Raises: openai.NotFoundError if there is no such job; what `stream` raises.
        """
        for chunk in self._stream([], **resuming(job_id, after)):
            yield _message(chunk)

    async def aresume(self, job_id: str, *, after: Position | str = START) -> AsyncGenerator[AIMessageChunk]:
        """As `resume`."""
        async for chunk in self._astream([], **resuming(job_id, after)):
            yield _message(chunk)

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        job_id = named(kwargs)
        return stamped(super()._stream(*args, **kwargs), job_id)

    def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        job_id = named(kwargs)
        return astamped(super()._astream(*args, **kwargs), job_id)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        job_id = named(kwargs)
        return _stamped(super()._generate(messages, stop, run_manager, **kwargs), job_id)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        job_id = named(kwargs)
        return _stamped(await super()._agenerate(messages, stop, run_manager, **kwargs), job_id)


def _stamped(result: ChatResult, job_id: str) -> ChatResult:
    for generation in result.generations:
        stamp(generation, job_id)
    return result


def _message(chunk: ChatGenerationChunk) -> AIMessageChunk:
    message = cast("AIMessageChunk", chunk.message)
    message.response_metadata = {**(chunk.generation_info or {}), **message.response_metadata}
    return message
