"""Is it there, and can it work: for load balancers. No key needed, nothing told but that."""

from typing import Final, Literal

from fastapi import APIRouter
from pydantic import BaseModel

from tailrace.gateway.errors import ApiError, refusals
from tailrace.gateway.gateway import Here
from tailrace.joblog.all_servers import PASSING, check_servers
from tailrace.schemas import BrokerUnavailable

router = APIRouter(tags=["health"])

#: Less than a load balancer waits, and more than a server needs that has much to do.
_PATIENCE_S: Final = 3.0


class Health(BaseModel):
    """The gateway is well."""

    status: Literal["ok"] = "ok"


@router.get("/healthz", summary="Whether the process answers")
async def healthz() -> Health:
    """Asks nobody else."""
    return Health()


@router.get("/readyz", summary="Whether jobs can be taken and read", responses=refusals(503))
async def readyz(gateway: Here) -> Health:
    """Asks Redis. 503 if it does not answer or cannot keep what tailrace promises (`tailrace doctor` says why). With several
    servers: if the queue's does not work, or none of the logs'. One of them that is away costs its own jobs only, for every
    gateway alike: taking gateways out of service would cost the others' too."""
    tailrace = gateway.tailrace
    servers = await check_servers(tailrace.broker, tailrace.settings.keys, role=None, patience_s=_PATIENCE_S)
    error = servers.error()
    if error is None:
        return Health()
    _, finding = error
    if finding.code in PASSING:
        raise BrokerUnavailable(finding.what)
    raise ApiError(503, "Redis is not suitable: `tailrace doctor` says why", code="broker_unsuitable")
