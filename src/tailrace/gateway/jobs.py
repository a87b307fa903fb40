"""A job for who may have it. Every route of every API gets its job here, and nowhere else."""

from contextlib import AbstractAsyncContextManager
from typing import NamedTuple

from tailrace.client import AsyncJob
from tailrace.gateway.access import Principal
from tailrace.gateway.gateway import Gateway
from tailrace.gateway.streams import Kind, Reader
from tailrace.joblog import Overview
from tailrace.schemas import START, InvalidRequest, JobNotFound, JsonObject, Position


class Found(NamedTuple):
    """A job that is there, and whoever asks may have it."""

    job: AsyncJob
    overview: Overview


async def job_of(gateway: Gateway, job_id: str, principal: Principal) -> AsyncJob:
    """The job, if it is there and theirs. Raises: JobNotFound (both look alike), BrokerUnavailable."""
    return (await found_job(gateway, job_id, principal)).job


async def found_job(gateway: Gateway, job_id: str, principal: Principal) -> Found:
    """As `job_of`, with where the job stands."""
    try:
        job = gateway.tailrace.job(job_id)
    except InvalidRequest:
        raise JobNotFound(job_id) from None
    overview = await gateway.tailrace.consumer.look(job_id)
    if not principal.owns(overview.job.get("tenant")):
        raise JobNotFound(job_id)
    return Found(job, overview)


def reader_of(
    gateway: Gateway, job_id: str, job: JsonObject, kind: Kind, *, after: Position = START, skip: int = 0
) -> AbstractAsyncContextManager[Reader]:
    """A reader of the job's stream, shared with all who read the same."""
    incarnation = job.get("incarnation")
    return gateway.channels.reader(
        job_id, kind, incarnation=incarnation if isinstance(incarnation, str) else None, after=after, skip=skip
    )
