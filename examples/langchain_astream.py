"""LangChain, async: its own tutorial's program with another import. `python examples/langchain_astream.py`

Needs a worker: `tailrace worker` (OPENAI_API_KEY), `tailrace worker --rehearsal` or `tailrace worker --local-model`.
"""

import asyncio

from tailrace.langchain import TailraceLLM as OpenAI


async def main() -> None:
    llm = OpenAI(model="gpt-3.5-turbo-instruct", temperature=0, max_tokens=512)
    async for chunk in llm.astream("Write me a 1 verse song about sparkling water."):
        print(chunk, end="|", flush=True)


asyncio.run(main())
