"""A port for metrics beside whatever a command does: its options, and serving it."""

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Annotated

import typer

from tailrace.cli.exits import MissingExtra
from tailrace.joblog import Broker
from tailrace.schemas import Settings
from tailrace.telemetry.metrics_counts import Counts

logger = logging.getLogger("tailrace.metrics")

_PANEL = "Metrics"

MetricsPort = Annotated[
    int | None,
    typer.Option(
        "--metrics-port",
        envvar="TAILRACE_METRICS_PORT",
        min=0,
        max=65535,
        help="Show metrics there, without keys; 0: a free one. Default: none.",
        show_default=False,
        show_envvar=False,
        rich_help_panel=_PANEL,
    ),
]
MetricsHost = Annotated[
    str | None,
    typer.Option(
        "--metrics-host",
        envvar="TAILRACE_METRICS_HOST",
        help="The address for that; default: 127.0.0.1.",
        show_default=False,
        show_envvar=False,
        rich_help_panel=_PANEL,
    ),
]


def chosen(port: int | None, host: str | None) -> dict[str, int | str]:
    """What the options say, as fields of a section of the settings."""
    given: dict[str, int | str | None] = {"metrics_port": port, "metrics_host": host}
    return {name: value for name, value in given.items() if value is not None}


def require_metrics(port: int | None) -> None:
    """Raises: MissingExtra if metrics are wanted and cannot be written."""
    if port is not None and find_spec("prometheus_client") is None:
        raise MissingExtra("metrics need prometheus_client: pip install 'tailrace[metrics]'")


@asynccontextmanager
async def metrics_served(
    roles: Sequence[Counts], broker: Broker, settings: Settings, *, role: str, host: str, port: int | None
) -> AsyncGenerator[str | None]:
    """The URL of this process's metrics and the fleet's, while they are served; None without a port.

    Raises: InvalidRequest if nobody can listen there.
    """
    if port is None:
        yield None
        return
    # An extra of its own.
    from tailrace.telemetry.metrics_exposition import Exposition
    from tailrace.telemetry.metrics_fleet import Fleet
    from tailrace.telemetry.metrics_server import MetricsServer

    fleet = Fleet(broker, settings.keys, lease_s=settings.worker.lease_s)
    exposition = Exposition(roles, fleet=fleet, role=role, namespace=settings.namespace)
    async with MetricsServer(exposition.scrape).listening(host, port) as url:
        logger.info("metrics at %s", url)
        yield url
