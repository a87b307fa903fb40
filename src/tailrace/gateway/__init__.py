"""HTTP for jobs: the native API with SSE, the OpenAI API, the console and metrics.

Empty so far: this version is used from Python and by the `tailrace` command. Will import schemas, joblog, views, producer
and consumer, and never the worker.
"""

__all__: list[str] = []
