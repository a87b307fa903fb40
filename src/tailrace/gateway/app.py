"""The application: routes, what they share while it runs, and what every answer has."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from tailrace.client import AsyncTailrace
from tailrace.gateway.access import Access, install_access
from tailrace.gateway.bodies import BodyLimit
from tailrace.gateway.counting import Counting
from tailrace.gateway.errors import install_errors
from tailrace.gateway.gateway import Gateway
from tailrace.gateway.heads import Heads
from tailrace.gateway.observing import Observed
from tailrace.gateway.routers import ROUTERS
from tailrace.gateway.streams import Channels, Streams
from tailrace.schemas import Settings
from tailrace.telemetry import metrics_catalogue as told
from tailrace.telemetry.metrics_counts import Counts
from tailrace.telemetry.metrics_exposition import Exposition
from tailrace.telemetry.metrics_fleet import Fleet


def create_app(
    settings: Settings | None = None,
    *,
    tailrace: AsyncTailrace | None = None,
    access: Access | None = None,
    metrics: Sequence[Counts] = (),
) -> FastAPI:
    """The gateway as an ASGI application, for uvicorn or any other server.

    `settings`: by default environment and file. `tailrace`: an open client of the same loop, which is left open; by default
    one of the application's own. `access` tells who asks; by default who has a key of the settings, or,
    if they have none, everybody on this machine and nobody else. `metrics`: of what else runs in this process; /metrics has
    them beside the gateway's own.
    Raises: InvalidRequest if the settings are wrong.
    """
    chosen = settings or (tailrace.settings if tailrace is not None else Settings.load())
    app = FastAPI(
        title="tailrace",
        summary="LLM output as background jobs: submit a prompt, follow every token by job id.",
        version=version("tailrace"),
        lifespan=_open,
        # FastAPI's pages load their scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # FastAPI's own spans have the query in them, where a read token may be, and its logs what an error says.
        telemetry={"auto_configure": False, "tracing": False, "metrics": False, "logs": False},
    )
    app.state.settings = chosen
    app.state.tailrace = tailrace
    app.state.counts = counts = Counts(told.GATEWAY)
    app.state.metrics = (*metrics, counts)
    install_errors(app)
    for router in ROUTERS:
        app.include_router(router)
    app.add_middleware(Heads)
    app.add_middleware(BodyLimit, limit=chosen.gateway.max_body_bytes)
    install_access(app, chosen, access)
    app.add_middleware(Counting, counts=counts)
    app.add_middleware(Observed, traceparent=chosen.gateway.traceparent)
    return app


@asynccontextmanager
async def _open(app: FastAPI) -> AsyncGenerator[None]:
    settings: Settings = app.state.settings
    tailrace: AsyncTailrace | None = app.state.tailrace
    async with AsyncExitStack() as stack:
        if tailrace is None:
            tailrace = await stack.enter_async_context(AsyncTailrace(settings=settings))
        channels = Channels(tailrace.consumer, kept_bytes=settings.gateway.kept_bytes)
        counts: Counts = app.state.counts
        streams = Streams(settings.gateway, counts)
        stack.callback(streams.close)
        consumer = tailrace.consumer
        counts.watch(told.STREAMS_OPEN, lambda: len(streams))
        counts.watch(told.JOBS_FOLLOWED, lambda: consumer.followed)
        counts.watch(told.READERS_OPEN, lambda: consumer.tails.readers)
        counts.watch(told.READERS_CUT, lambda: consumer.tails.cut)
        exposition = Exposition(
            app.state.metrics,
            fleet=Fleet(tailrace.broker, settings.keys, lease_s=settings.worker.lease_s),
            role="dev" if len(app.state.metrics) > 1 else "gateway",
            namespace=settings.namespace,
        )
        app.state.gateway = Gateway(settings.gateway, tailrace, channels, streams, exposition)
        yield
