"""Read tokens over HTTP."""

from typing import cast

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from tailrace.gateway.access.key_access import TOKEN_PARAMETER
from tailrace.gateway.access.principal import Asking
from tailrace.gateway.access.tokens import Grant, Signer
from tailrace.gateway.errors import ALWAYS, refusals
from tailrace.gateway.gateway import Here
from tailrace.gateway.jobs import found_job

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["access"], responses=ALWAYS)


class TokenToMake(BaseModel):
    """How long a token is to be good for."""

    model_config = ConfigDict(extra="forbid")

    expires_in_s: float = Field(default=300, ge=1, le=86_400)
    """Seconds. A stream that was opened by then goes on; coming back to it takes a new token."""


class ReadToken(BaseModel):
    """Whoever has it may read this job."""

    token: str
    """For `?token=` of the job's status, stream, events and records. Good for nothing else."""
    expires_at: int
    """Milliseconds since 1970."""
    url: str
    """The job's stream, token included: what an EventSource is opened with. Relative to this gateway."""


@router.post("/tokens", summary="A token that is good for reading this job", status_code=201, responses=refusals(404))
async def make_token(
    job_id: str, gateway: Here, principal: Asking, request: Request, asked: TokenToMake | None = None
) -> ReadToken:
    """For readers that must not have a key: browsers. Tokens are not stored and cannot be called back, so keep them short."""
    signer = cast("Signer", request.app.state.signer)
    _, overview = await found_job(gateway, job_id, principal)
    incarnation = overview.job.get("incarnation")
    expires_ms = await gateway.tailrace.broker.queue.now_ms() + round((asked or TokenToMake()).expires_in_s * 1000)
    token = signer.sign(
        job_id, Grant(expires_ms, principal.tenant, incarnation if isinstance(incarnation, str) else "")
    )
    return ReadToken(token=token, expires_at=expires_ms, url=f"/v1/jobs/{job_id}/stream?{TOKEN_PARAMETER}={token}")
