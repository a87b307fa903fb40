"""`tailrace webhooks`: tells the receivers of the configuration of ended jobs."""

import signal
from typing import TYPE_CHECKING, Annotated

import typer

from tailrace.cli.exits import ExitCode, MissingExtra
from tailrace.cli.loops import observed, on_signals, require_server, run_loop, with_server
from tailrace.cli.metrics import MetricsHost, MetricsPort, metrics_served, require_metrics
from tailrace.cli.options import Config, Json, LogFormat, LogLevel, Namespace, RedisUrl, settings_of
from tailrace.cli.output import Output, reporting
from tailrace.joblog import connected_by
from tailrace.schemas import InvalidRequest, Settings

if TYPE_CHECKING:
    from tailrace.consumer.webhooks import Webhooks


def webhooks(
    *,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="NAME", help="These receivers only.", show_default=False)
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
    """Tell the configured receivers of ended jobs, until SIGTERM or Ctrl-C; in any number of processes."""
    output = Output(json=json)
    with reporting(output):
        settings = _chosen(
            settings_of(redis_url, namespace, config, log_format=log_format, log_level=log_level), only or []
        )
        try:
            from tailrace.consumer.webhooks import Webhooks  # an extra of its own
        except ImportError as error:
            raise MissingExtra(
                f"this command needs {error.name or 'packages'}: pip install 'tailrace[webhooks]'"
            ) from error
        require_metrics(metrics_port)
        where = (metrics_host or "127.0.0.1", metrics_port)
        with observed(settings, "tailrace-webhooks"):
            stopped_by = run_loop(_serve(with_server(settings), Webhooks, output, where))
        if stopped_by is signal.SIGINT:
            raise typer.Exit(ExitCode.INTERRUPTED)


def _chosen(settings: Settings, only: list[str]) -> Settings:
    """Raises: InvalidRequest if there is no receiver of a name."""
    unknown = sorted(set(only) - set(settings.webhooks))
    if unknown:
        known = ", ".join(settings.webhooks) or "there is none"
        raise InvalidRequest(f"no webhook {unknown[0]!r} is configured: {known}")
    if not only:
        return settings
    return settings.model_copy(update={"webhooks": {name: settings.webhooks[name] for name in only}})


async def _serve(
    settings: Settings, make: "type[Webhooks]", output: Output, metrics: tuple[str, int | None]
) -> signal.Signals | None:
    """Deliver until a signal; which one it was."""
    async with connected_by(settings) as broker:
        serving = make(settings, broker)
        await require_server(settings)
        stopped_by: list[signal.Signals] = []

        def stop(number: signal.Signals) -> None:
            stopped_by.append(number)
            serving.drain()

        host, port = metrics
        served = metrics_served([serving.counts], broker, settings, role="webhooks", host=host, port=port)
        async with served as url:
            with on_signals(stop):
                output.note(
                    f"telling {', '.join(serving.names)} of the jobs that end in namespace {settings.namespace!r}"
                )
                if output.json:
                    where = {} if url is None else {"metrics": url}
                    output.object({"ready": True, "webhooks": serving.names, "namespace": settings.namespace, **where})
                await serving.run()
        return stopped_by[0] if stopped_by else None
