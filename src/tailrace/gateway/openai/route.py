"""What all routes of the OpenAI API have in common: its refusals."""

from collections.abc import Callable, Coroutine
from typing import Any, Final

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from tailrace.gateway.errors import ErrorBody, not_valid, refusals
from tailrace.gateway.openai.refusals import refusal_of
from tailrace.schemas import TailraceError

#: For a router's `responses=`: what every route refuses. With `4XX` FastAPI does not document its own 422, which is a 400 here.
ALWAYS: Final[dict[int | str, dict[str, Any]]] = {
    **refusals(400, 401, 403, 503),
    "4XX": {"model": ErrorBody, "description": "Any other refusal"},
}


class OpenAIRoute(APIRoute):
    """A route that says 400 to a wrong request, as OpenAI does, and an upstream's own status for a job that failed."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except RequestValidationError as error:
                raise not_valid(error, 400) from None
            except TailraceError as error:
                raise refusal_of(error) from error

        return handle
