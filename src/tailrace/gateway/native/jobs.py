"""Jobs over HTTP: submit, look at, list, cancel, delete."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from tailrace.gateway import listing
from tailrace.gateway.access import Asking, store_for
from tailrace.gateway.errors import ALWAYS, refusals
from tailrace.gateway.gateway import Here
from tailrace.gateway.jobs import found_job, job_of
from tailrace.gateway.native.models import Deleted, Ended, Job, Jobs, JobToSubmit, JobWithResult
from tailrace.joblog import Overview, read_log
from tailrace.schemas import FIRST, JobRequest, Status, TailraceError
from tailrace.views import ResultView

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], responses=ALWAYS)


@router.post(
    "",
    summary="Submit a job",
    status_code=201,
    responses={
        200: {"model": Job, "description": "The id was taken by this very request: the job that it is"},
        **refusals(409, 413, 429),
    },
)
async def submit(asked: JobToSubmit, gateway: Here, principal: Asking, response: Response) -> Job:
    """Stores and queues the job. Sent again with the same `job_id`, it changes nothing."""
    given = asked.model_fields_set.intersection(type(asked).model_fields) - {"job_id", "params"}
    arguments: dict[str, Any] = asked.model_dump(include=given)
    if params := asked.upstream_params():
        arguments["params"] = params
    request = JobRequest.of(limits=gateway.tailrace.settings.limits, **arguments)
    stored = await store_for(gateway, principal, request, job_id=asked.job_id)
    response.status_code = 201 if stored.new else 200
    response.headers["Location"] = f"/v1/jobs/{stored.job_id}"
    try:
        _, overview = await found_job(gateway, stored.job_id, principal)
    except TailraceError:
        # It is stored: who were told to try again would have it twice.
        overview = Overview(
            Status.QUEUED, FIRST, request.model_dump(include={"api", "model", "task", "metadata", "tags"}), None
        )
    return Job.model_validate(_fields(stored.job_id, overview))


@router.get("", summary="The jobs that have not ended, and the last that have")
async def list_jobs(
    gateway: Here,
    principal: Asking,
    limit: Annotated[int, Query(ge=1, le=1000, description="How many that have not ended, at most.")] = 100,
    ended: Annotated[int, Query(ge=0, le=200, description="How many that have ended, at most.")] = 0,
) -> Jobs:
    """Those that have not ended by the time of their next check, which is about the order of their submission; then those
    that have, the last one first, from moments after their end and for as long as they can be read."""
    found, more = await listing.open_jobs(gateway, principal, limit)
    over = await listing.ended_jobs(gateway, principal, ended)
    # One may have ended in between: it is told once.
    both = dict(over)
    both = {job_id: overview for job_id, overview in found if job_id not in both} | both
    return Jobs(jobs=[Job.model_validate(_fields(job_id, overview)) for job_id, overview in both.items()], more=more)


@router.get("/{job_id}", summary="Where a job stands, and its output so far", responses=refusals(404, 410))
async def get_job(
    job_id: str,
    gateway: Here,
    principal: Asking,
    output: Annotated[bool, Query(description="`false`: only where it stands, as in the listing.")] = True,
) -> JobWithResult | Job:
    """Does not wait for the end."""
    job, overview = await found_job(gateway, job_id, principal)
    if not output:
        return Job.model_validate(_fields(job.id, overview))
    view = ResultView(job.id)
    tailrace = gateway.tailrace
    async for entries in read_log(tailrace.broker, tailrace.settings.keys, job.id):
        view.feed(entries)
    result = view.result()
    fields = _fields(job.id, overview) | result.model_dump(include=set(JobWithResult.model_fields))
    # It may have ended since the look.
    ended = None if view.end is None else view.end.ts
    return JobWithResult.model_validate(fields | {"position": result.last, "ended": ended})


@router.post("/{job_id}/cancel", summary="Cancel a job", responses=refusals(404))
async def cancel(job_id: str, gateway: Here, principal: Asking) -> Ended:
    """Durable at once, whatever state the job is in; what it has put out stands. Says how it has ended, which may be another
    way."""
    job = await job_of(gateway, job_id, principal)
    return Ended(id=job.id, status=await job.cancel())


@router.delete("/{job_id}", summary="Delete a job", responses=refusals(404))
async def delete(job_id: str, gateway: Here, principal: Asking) -> Deleted:
    """Request and records are removed; a running job is cancelled. The id stays taken until its time is over."""
    job = await job_of(gateway, job_id, principal)
    await job.delete()
    return Deleted(id=job.id)


def _fields(job_id: str, overview: Overview) -> dict[str, Any]:
    record, end = overview.job, overview.end or {}
    return {
        "id": job_id,
        "status": overview.status,
        "position": overview.top,
        "created": record.get("ts"),
        "deadline": record.get("deadline"),
        **{name: record.get(name) for name in ("api", "model", "task")},
        "metadata": record.get("metadata") or {},
        "tags": record.get("tags") or [],
        "ended": end.get("ts"),
        **{name: end.get(name) for name in ("finish_reason", "usage", "error", "attempts", "timings")},
    }
