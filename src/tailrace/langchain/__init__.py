"""LangChain over tailrace: `ChatTailrace` and `TailraceLLM` stand in for langchain_openai's `ChatOpenAI` and `OpenAI`.

    from tailrace.langchain import TailraceLLM as OpenAI

Each call is a background job whose id is in the response's metadata; `resume(job_id)` follows it again from anywhere.
The other way round, `App.add_runnable` runs a Runnable as a task; `revive` makes LangChain's objects of what its readers get.
May import everything but gateway and cli. Needs the extra `langchain`.
"""

from tailrace.langchain import _extra as _extra
from tailrace.langchain.chat import ChatTailrace
from tailrace.langchain.llm import TailraceLLM
from tailrace.langchain.reviving import revive
from tailrace.openai.calls import JobOptions

__all__ = ["ChatTailrace", "JobOptions", "TailraceLLM", "revive"]
