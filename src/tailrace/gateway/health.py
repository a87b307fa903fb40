"""Is it there, and can it work: for load balancers. No key needed, nothing told but that."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from tailrace.gateway.errors import ApiError, refusals
from tailrace.gateway.gateway import Here
from tailrace.joblog.suitability import check_server

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """The gateway is well."""

    status: Literal["ok"] = "ok"


@router.get("/healthz", summary="Whether the process answers")
async def healthz() -> Health:
    """Asks nobody else."""
    return Health()


@router.get("/readyz", summary="Whether jobs can be taken and read", responses=refusals(503))
async def readyz(gateway: Here) -> Health:
    """Asks Redis. 503 if it does not answer or cannot keep what tailrace promises (`tailrace doctor` says why)."""
    tailrace = gateway.tailrace
    findings = await check_server(tailrace.broker.redis, tailrace.settings.keys, role=None)
    if any(finding.level == "error" for finding in findings):
        raise ApiError(503, "Redis is not suitable: `tailrace doctor` says why", code="broker_unsuitable")
    return Health()
