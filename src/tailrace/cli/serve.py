"""`tailrace serve`: jobs over HTTP."""

import signal
from typing import Annotated

import typer

from tailrace.cli.exits import ExitCode, MissingExtra
from tailrace.cli.loops import observed, require_server, run_loop, with_server
from tailrace.cli.metrics import MetricsHost, MetricsPort
from tailrace.cli.metrics import chosen as metrics_chosen
from tailrace.cli.options import Config, Json, LogFormat, LogLevel, Namespace, RedisUrl, settings_of
from tailrace.cli.output import Output, reporting


def serve(
    *,
    host: Annotated[
        str | None, typer.Option(help="Where to listen; default: gateway.host, else 127.0.0.1.", show_default=False)
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="0: a free one; default: gateway.port, else 8722.", show_default=False),
    ] = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = None,
    json: Json = False,
    redis_url: RedisUrl = None,
    namespace: Namespace = None,
    config: Config = None,
    log_format: LogFormat = None,
    log_level: LogLevel = None,
) -> None:
    """Serve jobs over HTTP, until SIGTERM or Ctrl-C: submit and cancel, text, events and records as server-sent events."""
    output = Output(json=json)
    with reporting(output):
        settings = settings_of(redis_url, namespace, config, log_format=log_format, log_level=log_level)
        given: dict[str, int | str] = {
            name: value for name, value in (("host", host), ("port", port)) if value is not None
        }
        given |= metrics_chosen(metrics_port, metrics_host)
        settings = settings.model_copy(update={"gateway": settings.gateway.model_copy(update=given)})
        try:
            from tailrace.gateway import serve as run_gateway  # an extra of its own
        except ImportError as error:
            raise MissingExtra(
                f"this command needs {error.name or 'packages'}: pip install 'tailrace[gateway]'"
            ) from error
        chosen = settings

        def ready(url: str) -> None:
            output.note(f"serving namespace {chosen.namespace!r} at {url}")
            if output.json:
                output.object({"ready": True, "url": url, "namespace": chosen.namespace})

        async def served() -> signal.Signals | None:
            await require_server(chosen)
            return await run_gateway(chosen, ready=ready)

        with observed(settings, "tailrace-gateway"):
            chosen = with_server(settings)
            stopped_by = run_loop(served())
        if stopped_by is signal.SIGINT:
            raise typer.Exit(ExitCode.INTERRUPTED)
