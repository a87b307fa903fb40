"""What Prometheus scrapes: numbers of this process and of the fleet."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from tailrace.gateway.access import Asking
from tailrace.gateway.errors import ApiError, refusals
from tailrace.gateway.gateway import Here

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}, "application/openmetrics-text": {}}}, **refusals(401, 403, 404)},
)
async def metrics(request: Request, gateway: Here, principal: Asking) -> Response:
    """Prometheus' text, or OpenMetrics for who accepts that. Figures of all tenants: with keys, only for who sees all jobs."""
    if not principal.sees_all:
        raise ApiError(404, "Not Found", code="not_found")
    body, content_type = await gateway.exposition.scrape(request.headers.get("accept", ""))
    return Response(body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})
