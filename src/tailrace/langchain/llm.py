"""The model of legacy completions: text in, text out."""

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LangSmithParams
from langchain_core.outputs import GenerationChunk, LLMResult
from langchain_openai import OpenAI

from tailrace.langchain.below import RunsAsJobs, astamped, named, resuming, stamp, stamped
from tailrace.openai.calls import JOB_ID_HEADER
from tailrace.schemas import START, Position


class TailraceLLM(RunsAsJobs, OpenAI):
    """LangChain's `OpenAI` whose calls run as jobs. Takes all of its arguments, and these; needs no key.

    The id of a prompt's job is `generation_info["job_id"]` of its generation (in a stream: of its first chunk). To choose
    it: `model.invoke(..., job_id="...")`, in a chain `model.bind(job_id="...")`. Follow it again from any process:
    `resume(job_id)`.
    """

    @property
    def _llm_type(self) -> str:
        return "tailrace"

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        # LangChain makes the provider's name of the class's.
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = "openai"
        return params

    def resume(self, job_id: str, *, after: Position | str = START) -> Generator[str]:
        """Yield an existing job's text, from its beginning or from just after a position, live or late.

        Raises: openai.NotFoundError if there is no such job; what `stream` raises.
        """
        for chunk in self._stream("", **resuming(job_id, after)):
            yield chunk.text

    async def aresume(self, job_id: str, *, after: Position | str = START) -> AsyncGenerator[str]:
        """As `resume`."""
        async for chunk in self._astream("", **resuming(job_id, after)):
            yield chunk.text

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[GenerationChunk]:
        job_id = named(kwargs)
        return stamped(super()._stream(*args, **kwargs), job_id)

    def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[GenerationChunk]:
        job_id = named(kwargs)
        return astamped(super()._astream(*args, **kwargs), job_id)

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        call = _Calls(kwargs, self.batch_size)
        parts = [
            super(TailraceLLM, self)._generate(some, stop, run_manager, **arguments)
            for some, arguments in call.split(prompts)
        ]
        return call.joined(parts)

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        call = _Calls(kwargs, self.batch_size)
        parts = [
            await super(TailraceLLM, self)._agenerate(some, stop, run_manager, **arguments)
            for some, arguments in call.split(prompts)
        ]
        return call.joined(parts)


class _Calls:
    """Prompts as the calls that they go out in: each has a job id of its own, and each prompt in it one made of that."""

    def __init__(self, arguments: dict[str, Any], batch_size: int) -> None:
        self._arguments = dict(arguments)
        self._job_id = named(self._arguments)
        self._size = batch_size
        self._job_ids: list[str] = []

    def split(self, prompts: list[str]) -> Iterator[tuple[list[str], dict[str, Any]]]:
        for start in range(0, len(prompts), self._size):
            some = prompts[start : start + self._size]
            job_id = self._job_id if len(prompts) <= self._size else f"{self._job_id}-{start // self._size}"
            self._job_ids += [job_id] if len(some) == 1 else [f"{job_id}-{at}" for at in range(len(some))]
            yield (
                some,
                {
                    **self._arguments,
                    "extra_headers": {**self._arguments["extra_headers"], JOB_ID_HEADER: job_id},
                },
            )

    def joined(self, parts: list[LLMResult]) -> LLMResult:
        whole = parts[0]
        usage: dict[str, int] = {}
        for part in parts:
            told: dict[str, int] = (part.llm_output or {}).get("token_usage") or {}
            for name, count in told.items():
                usage[name] = usage.get(name, 0) + count
        whole.generations = [generations for part in parts for generations in part.generations]
        if whole.llm_output is not None:
            whole.llm_output["token_usage"] = usage
        for job_id, generations in zip(self._job_ids, whole.generations, strict=True):
            for generation in generations:
                stamp(generation, job_id)
        return whole
