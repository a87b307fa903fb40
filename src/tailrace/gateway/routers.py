"""All routes of the gateway, in the order in which they are tried."""

from typing import Final

from fastapi import APIRouter

from tailrace.gateway import health, metrics, openai
from tailrace.gateway.access import routes as access
from tailrace.gateway.console import router as console
from tailrace.gateway.native import jobs, streams

ROUTERS: Final[tuple[APIRouter, ...]] = (
    health.router,
    metrics.router,
    jobs.router,
    streams.router,
    *openai.ROUTERS,
    access.router,
    console.router,
)
