"""What the routes of one running gateway share."""

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends
from starlette.requests import HTTPConnection

from tailrace.client import AsyncTailrace
from tailrace.gateway.streams import Channels, Streams
from tailrace.schemas import GatewaySettings
from tailrace.telemetry.metrics_exposition import Exposition


@dataclass(frozen=True, slots=True)
class Gateway:
    """Open while the application runs."""

    settings: GatewaySettings
    tailrace: AsyncTailrace
    channels: Channels
    """The jobs that are streamed, each encoded once for all its readers."""
    streams: Streams
    """The responses that stream them."""
    exposition: Exposition
    """What /metrics shows."""


def gateway_of(connection: HTTPConnection) -> Gateway:
    """The gateway that a connection came to."""
    return cast("Gateway", connection.app.state.gateway)


#: The parameter of a route that works with jobs.
Here = Annotated[Gateway, Depends(gateway_of)]
