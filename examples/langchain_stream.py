"""LangChain, blocking: its own tutorial's program with another import. `python examples/langchain_stream.py`

Needs a worker: `tailrace worker` (OPENAI_API_KEY), `tailrace worker --rehearsal` or `tailrace worker --local-model`.
"""

from tailrace.langchain import TailraceLLM as OpenAI

llm = OpenAI(model="gpt-3.5-turbo-instruct", temperature=0, max_tokens=512)
for chunk in llm.stream("Write me a 1 verse song about sparkling water."):
    print(chunk, end="|", flush=True)
