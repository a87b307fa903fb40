"""The OpenAI API over jobs: chat completions, legacy completions, responses, models.

Every call is a job, and a response's id is its job's id: what was started here can be followed, resumed, cancelled and
deleted by any other door, and the other way round.
"""

from typing import Final

from fastapi import APIRouter

from tailrace.gateway.openai import compacting, completions, models, responses, websocket

#: In the order in which they are tried.
ROUTERS: Final[tuple[APIRouter, ...]] = (
    completions.router,
    compacting.router,
    responses.router,
    websocket.router,
    models.router,
)

__all__ = ["ROUTERS"]
