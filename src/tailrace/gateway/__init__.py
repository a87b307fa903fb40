"""HTTP for jobs: the native API with SSE, the OpenAI API, the console and metrics. Needs the extra `gateway`.

`create_app` makes an application for any ASGI server, `serve` runs it. May import schemas, joblog, views, queue, producer,
consumer and client, and never the worker.
"""

from tailrace.gateway import _extra as _extra  # says what to install, before anything fails
from tailrace.gateway.access import Access, Principal
from tailrace.gateway.app import create_app
from tailrace.gateway.serving import serve

__all__ = ["Access", "Principal", "create_app", "serve"]
