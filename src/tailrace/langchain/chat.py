"""The chat model."""

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from typing import Any, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_openai import ChatOpenAI
from pydantic import ConfigDict, Field, model_validator

from tailrace.client import AsyncTailrace, Tailrace
from tailrace.langchain.below import JOB_ID, completed, named, resuming
from tailrace.openai.calls import JobOptions
from tailrace.schemas import START, Position, Settings


class ChatTailrace(ChatOpenAI):  # type: ignore[override, unused-ignore]  # as ChatOpenAI itself has it
    """`ChatOpenAI` whose calls run as jobs. Takes all of its arguments, and these; needs no key.

    The id of a call's job is `response_metadata["job_id"]` of its message (in a stream: of its first chunk). To choose
    it: `model.invoke(..., job_id="...")`. Follow it again from any process: `resume(job_id)`.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    tailrace: Tailrace | AsyncTailrace | None = Field(default=None, exclude=True, repr=False)
    """An open client, left open. A `Tailrace` serves all threads and event loops; an `AsyncTailrace` its own loop only.
    None: a client of this process's own, opened at the first call and closed with the process."""
    redis_url: str | None = Field(default=None, exclude=True, repr=False)
    """Without `tailrace`: the server. None: TAILRACE_REDIS_URL, else the embedded one."""
    namespace: str | None = None
    settings: Settings | None = Field(default=None, exclude=True, repr=False)
    upstream: str | None = None
    """The upstream by its name in the worker's configuration."""
    jobs: JobOptions | None = Field(default=None, exclude=True)
    """What else `submit` takes: metadata, tags, deadline ..."""
    stream_usage: bool | None = True

    @model_validator(mode="before")
    @classmethod
    def _put_tailrace_below(cls, values: Any) -> Any:
        return completed(values) if isinstance(values, dict) else values  # pyright: ignore[reportUnknownArgumentType]  # what the caller passed

    @property
    def _llm_type(self) -> str:
        return "chat-tailrace"

    @classmethod
    def is_lc_serializable(cls) -> bool:
        # LangChain loads again what is on its own list of classes, and no other.
        return False

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
        job_id, first = named(kwargs), True
        for chunk in super()._stream(*args, **kwargs):
            if first:
                _stamp(chunk, job_id)
                first = False
            yield chunk

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        job_id, first = named(kwargs), True
        async for chunk in super()._astream(*args, **kwargs):
            if first:
                _stamp(chunk, job_id)
                first = False
            yield chunk

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


def _stamp(chunk: ChatGenerationChunk, job_id: str) -> None:
    chunk.generation_info = {**(chunk.generation_info or {}), JOB_ID: job_id}


def _stamped(result: ChatResult, job_id: str) -> ChatResult:
    for generation in result.generations:
        generation.generation_info = {**(generation.generation_info or {}), JOB_ID: job_id}
    return result


def _message(chunk: ChatGenerationChunk) -> AIMessageChunk:
    message = cast("AIMessageChunk", chunk.message)
    message.response_metadata = {**(chunk.generation_info or {}), **message.response_metadata}
    return message
