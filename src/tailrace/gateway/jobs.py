"""A job for who may have it. Every route of every API gets its job here, and nowhere else."""

from typing import NamedTuple

from tailrace.client import AsyncJob
from tailrace.gateway.access import Principal
from tailrace.gateway.gateway import Gateway
from tailrace.joblog import Overview
from tailrace.schemas import InvalidRequest, JobNotFound


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
