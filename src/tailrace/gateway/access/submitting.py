"""Storing a job for who asks. Every route that makes jobs does it here, and nowhere else."""

from contextlib import suppress

from tailrace.gateway.access.principal import Principal
from tailrace.gateway.gateway import Gateway
from tailrace.producer import Stored
from tailrace.schemas import GRACE_S, InvalidRequest, JobConflict, JobRequest, QueueFull, TailraceError, check_job_id


async def store_for(
    gateway: Gateway,
    principal: Principal,
    request: JobRequest,
    *,
    job_id: str | None = None,
    prefix: str = "",
    streamed: bool = False,
) -> Stored:
    """Store and queue a job that is theirs, if they may have one more. The same id with the same request is the same job;
    `prefix` is what an id begins with that nobody chose.

    `streamed`: the answer will be a stream, so there must be a place for that too; afterwards it would be too late to refuse.
    Raises: ApiError (403, 429), InvalidRequest, JobConflict, QueueFull, BrokerUnavailable, BrokerUnsuitable.
    """
    tailrace, limits = gateway.tailrace, principal.limits
    request = request.model_copy(update={"tenant": principal.owner})
    if limits is None:
        return await tailrace.producer.store(request, job_id=job_id, prefix=prefix)
    request = limits.in_queue(request)
    if streamed:
        limits.check_stream()
    job_id = tailrace.producer.new_id(prefix) if job_id is None else check_job_id(job_id)
    broker, keys = tailrace.broker, tailrace.settings.keys
    taken = await limits.take_job(broker, keys, job_id, life_s=request.delay_s + request.deadline_s + GRACE_S)
    try:
        return await tailrace.producer.store(request, job_id=job_id)
    except (InvalidRequest, JobConflict, QueueFull):
        # After any other error it may be stored.
        if taken:
            with suppress(TailraceError):
                await limits.leave_job(broker, keys, job_id)
        raise
