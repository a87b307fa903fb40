"""`tailrace dev`: server, worker and gateway at once, for trying things on one's own machine."""

import asyncio
import json
import logging
import os
import shlex
import signal
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib import import_module
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import typer
from redis import Redis
from redis.exceptions import RedisError

from tailrace.cli.exits import ExitCode, MissingExtra
from tailrace.cli.loops import observed, on_signals, require_server, run_loop, with_server
from tailrace.cli.options import Config, Json, LogFormat, LogLevel, Namespace, RedisUrl, settings_of
from tailrace.cli.output import Output, reporting
from tailrace.cli.standins import stand_in
from tailrace.schemas import InvalidRequest, Settings, UpstreamSettings
from tailrace.schemas.secrets import secret_of
from tailrace.tasks import App

_PROMPT: Final = "Write me a 1 verse song about sparkling water."
#: One that everybody with a key of OpenAI's may ask for.
_OPENAI_MODEL: Final = "gpt-4o-mini"
#: Nobody waits longer for an example.
_ASK_S: Final = 3.0
#: Slow enough to be watched.
_REHEARSAL_MODEL: Final = "rehearsal:pace=0.03"
#: Where a client of this machine finds what listens on all its addresses.
_HERE: Final = {"//0.0.0.0:": "//127.0.0.1:", "//[::]:": "//[::1]:"}
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
#: A server notices a moment later that its clients have left.
_LEAVE_S: Final = 1.0


def dev(
    app: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODULE:APP]", help="Where your tasks are: a tailrace.App in a module.", show_default=False
        ),
    ] = None,
    *,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="0: a free one; default: gateway.port, else 8722.", show_default=False),
    ] = None,
    rehearsal: Annotated[
        bool, typer.Option("--rehearsal", help="Answer every job from the built-in scripted upstream: no key, no cost.")
    ] = False,
    local_model: Annotated[
        bool, typer.Option("--local-model", help="Answer every job with a small language model on this machine.")
    ] = False,
    json: Json = False,
    redis_url: RedisUrl = None,
    namespace: Namespace = None,
    config: Config = None,
    log_format: LogFormat = None,
    log_level: LogLevel = None,
) -> None:
    """Server, worker and gateway in one, until Ctrl-C; prints what an OpenAI client, a browser and curl need.

    What still runs then is handed back: the next worker goes on with it.
    """
    output = Output(json=json)
    with reporting(output, interrupted=lambda: "interrupted before it took jobs"):
        settings = settings_of(redis_url, namespace, config, log_format=log_format, log_level=log_level)
        if port is not None:
            settings = settings.model_copy(update={"gateway": settings.gateway.model_copy(update={"port": port})})
        _require_extras()
        from tailrace.cli.applications import load_app  # what a module imports is the worker's

        loaded = load_app(app) if app else None
        if not (rehearsal or local_model):
            settings = _with_upstream(settings, loaded)
        # Where it listens is said below, and better.
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        with observed(settings, "tailrace"), _server(settings) as served:
            run_loop(require_server(served))
            with stand_in(served, output, rehearsal=rehearsal, local_model=local_model) as chosen:
                model = _REHEARSAL_MODEL if rehearsal else _model(chosen)

                def ready(url: str) -> None:
                    _show(output, chosen, url, model)

                stopped_by = run_loop(run_together(chosen, loaded, ready))
        if stopped_by is signal.SIGINT:
            raise typer.Exit(ExitCode.INTERRUPTED)


def _require_extras() -> None:
    """Raises: MissingExtra naming what to install."""
    for module in ("tailrace.gateway", "tailrace.cli.serving"):
        try:
            import_module(module)
        except ImportError as error:
            raise MissingExtra(
                f"this command needs {error.name or 'packages'}: pip install 'tailrace[worker,gateway,embedded]'"
            ) from error


def _with_upstream(settings: Settings, app: App | None) -> Settings:
    """The settings, as the environment completes them. Raises: InvalidRequest if nobody could answer a job."""
    from tailrace.cli.serving import served

    key, base_url = secret_of("OPENAI_API_KEY"), os.environ.get("OPENAI_BASE_URL")
    if base_url and not key and "default" not in settings.upstreams:
        # A service of one's own machine, most likely: it needs none.
        upstreams = {**settings.upstreams, "default": UpstreamSettings(api_key_env="")}
        settings = settings.model_copy(update={"upstreams": upstreams})
    for name, upstream in settings.upstreams.items() or [("default", UpstreamSettings())]:
        where = urlsplit(upstream.base_url or base_url or "")
        if where.hostname in _LOOPBACK and where.port == settings.gateway.port:
            raise InvalidRequest(
                f"upstream {name!r} would be this gateway itself ({where.scheme}://{where.netloc.rpartition('@')[2]}): "
                "OPENAI_BASE_URL is for its clients; unset it here"
            )
    # Tasks need no upstream, or not all of them do.
    if app is None and all(upstream.key_missing for upstream in served(settings)):
        raise InvalidRequest(
            "no upstream: set OPENAI_API_KEY (or OPENAI_BASE_URL, or [upstreams.default] in the file of --config), or "
            "start with --local-model (a small language model on this machine) or --rehearsal (a scripted one)"
        )
    return settings


def _model(settings: Settings) -> str:
    """A model that the default upstream has; asks it, if that is the only way to know."""
    from openai import OpenAI, OpenAIError

    upstream = settings.upstream("default") or UpstreamSettings()
    if known := (upstream.default_model or next(iter(upstream.models), None)):
        return known
    base_url = upstream.base_url or os.environ.get("OPENAI_BASE_URL")
    if base_url is None:
        return _OPENAI_MODEL
    key = (upstream.api_key_env and secret_of(upstream.api_key_env)) or "none"
    try:
        with OpenAI(base_url=base_url, api_key=key, timeout=_ASK_S, max_retries=0) as client:
            return next(iter(client.models.list())).id
    except (OpenAIError, StopIteration):
        return "MODEL"


@contextmanager
def _server(settings: Settings) -> Generator[Settings]:
    """The settings with a server in them. The embedded one, if it had to be started, is stopped when nobody else uses it."""
    if settings.redis_url is not None:
        yield settings
        return
    from tailrace.joblog.embedded import embedded_status, stop_embedded

    ran_before = embedded_status() is not None
    served = with_server(settings)
    try:
        yield served
    finally:
        if not ran_before and _nobody_uses(served.redis_url or ""):
            stop_embedded()


def _nobody_uses(url: str) -> bool:
    give_up = time.monotonic() + _LEAVE_S
    redis: Any = Redis  # its annotations are partly unknown to a strict checker
    with redis.from_url(url) as client:
        try:
            while len(client.client_list()) > 1:
                if time.monotonic() > give_up:
                    return False
                time.sleep(0.02)
        except RedisError:
            return False
    return True


async def run_together(settings: Settings, app: App | None, ready: Callable[[str], None]) -> signal.Signals | None:
    """Worker and gateway on one loop, until a signal, or until one of them fails: then the other one ends too.

    `ready` is called with the gateway's address once jobs are taken. Returns which signal it was.
    """
    from tailrace.cli.serving import announce
    from tailrace.client import AsyncTailrace
    from tailrace.client.jobs import JobsOf
    from tailrace.gateway import create_app
    from tailrace.gateway.serving import server
    from tailrace.worker.app import Worker

    listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()
    async with (
        AsyncTailrace(settings=settings) as client,
        Worker(settings, app=app, jobs=JobsOf(client)) as worker,
    ):
        gateway = server(
            create_app(settings, tailrace=client, metrics=[worker.counts]), settings, ready=listening.set_result
        )

        def stop(number: signal.Signals) -> None:
            gateway.stop(number)
            over.set()

        with on_signals(stop):
            signalled = asyncio.create_task(over.wait())
            serving = asyncio.create_task(gateway.serve())
            parts: list[asyncio.Future[Any]] = [signalled, serving]
            try:
                # First, so that nothing is taken by a worker that ends at once because the port is not free.
                await asyncio.wait([listening, *parts], return_when=asyncio.FIRST_COMPLETED)
                if listening.done():
                    parts.append(asyncio.create_task(worker.run()))
                    announce(settings, f"worker {worker.name!r}", app)
                    ready(listening.result())
                    await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            finally:
                over.set()
                if not gateway.should_exit:
                    gateway.stop()
                await worker.drain(0)
                ended = await asyncio.gather(*parts, return_exceptions=True)
            for problem in ended:
                if isinstance(problem, InvalidRequest) and not listening.done():
                    raise InvalidRequest(f"{problem}; --port 0 takes a free one") from problem
                if isinstance(problem, BaseException):
                    raise problem
    return gateway.stopped_by


def _show(output: Output, settings: Settings, url: str, model: str) -> None:
    for listening, here in _HERE.items():
        url = url.replace(listening, here)
    with_keys = bool(settings.gateway.tenants)
    body = json.dumps({"model": model, "input": _PROMPT, "stream": True, "background": True})
    key = ' -H "Authorization: Bearer $OPENAI_API_KEY"' if with_keys else ""
    curl = f"curl -N {url}/v1/responses{key} -H 'Content-Type: application/json' -d {shlex.quote(body)}"
    if output.json:
        fields = {"ready": True, "namespace": settings.namespace, "base_url": f"{url}/v1", "console": f"{url}/"}
        output.object({**fields, "curl": curl})
        return
    # A client wants some key, whatever it is.
    shown = "YOUR_KEY" if with_keys else "none"
    output.line(f"OpenAI SDK  export OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY={shown}")
    output.line(f"console     {url}/")
    output.line(f"curl        {curl}")
