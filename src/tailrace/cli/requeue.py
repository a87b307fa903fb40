"""`tailrace requeue`: have jobs done now: those that wait, those that ended badly once more."""

import asyncio
from contextlib import aclosing
from typing import Annotated, Final

import typer

from tailrace import AsyncTailrace
from tailrace.cli.exits import exit_code
from tailrace.cli.filters import Model, Older, Since, Statuses, Tag, Task, Tenant, statuses_of, wanted
from tailrace.cli.listing import row_of
from tailrace.cli.options import Config, Json, Namespace, RedisUrl, settings_of
from tailrace.cli.output import Output, reporting
from tailrace.consumer import Listed, Listing, Wanted
from tailrace.producer import Requeued, Requeueing, Requeuer
from tailrace.schemas import InvalidRequest, JobNotFound, TailraceError

_TOLD: Final = {
    Requeued.NEW: "had ended; a new job does it again",
    Requeued.AGAIN: "had ended; it was requeued before",
    Requeued.FORWARD: "is due now",
    Requeued.WAITING: "is due already and waits for a worker",
    Requeued.TAKEN: "was taken from its worker; another attempt goes on",
    Requeued.RUNNING: "is running and was left alone (--take takes it from its worker)",
}


def requeue(
    job_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[JOB]...", help="These jobs.", show_default=False)
    ] = None,
    *,
    failed: Annotated[
        bool,
        typer.Option("--failed", help="Jobs that failed: short for --status failed.", rich_help_panel="Which jobs"),
    ] = False,
    status: Statuses = None,
    model: Model = None,
    task: Task = None,
    tag: Tag = None,
    tenant: Tenant = None,
    since: Since = None,
    older: Older = None,
    take: Annotated[
        bool, typer.Option("--take", help="Take running jobs from their workers: for one that hangs.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do it. Without it, jobs chosen by options are only shown.")
    ] = False,
    json: Json = False,
    redis_url: RedisUrl = None,
    namespace: Namespace = None,
    config: Config = None,
) -> None:
    """Have jobs done now. One that is queued for later is due at once; one that has ended is submitted anew, as a job with
    an id of its own (the same one, however often this is called); a running one is left alone."""
    output = Output(json=json)
    with reporting(output):
        settings = settings_of(redis_url, namespace, config)
        statuses = statuses_of([*(status or ()), *(["failed"] if failed else [])])
        chosen = bool(statuses or model or task or tag or tenant or since or older)
        if bool(job_ids) == chosen:
            raise InvalidRequest(
                "say which jobs: their ids, or options that choose them (--failed --since 1h), not both"
            )

        async def requeued() -> TailraceError | None:
            async with AsyncTailrace(settings=settings) as tailrace:
                keys = tailrace.settings.keys
                requeuer = Requeuer(tailrace.broker, keys, tailrace.producer)
                if job_ids:
                    return await _requeue(requeuer, list(dict.fromkeys(job_ids)), output, take=take)
                now_ms = await tailrace.broker.now_ms()
                which = wanted(
                    now_ms,
                    statuses=statuses,
                    model=model,
                    task=task,
                    tag=tag,
                    tenant=tenant,
                    since=since,
                    older=older,
                )
                found = await _chosen(Listing(tailrace.broker, keys, tailrace.consumer), which)
                if yes:
                    return await _requeue(requeuer, [each.job_id for each in found], output, take=take)
                for each in found:
                    if output.json:
                        status = each.overview.status.value
                        output.object({"job_id": each.job_id, "status": status, "done": None})
                    else:
                        output.line(row_of(each, now_ms))
                output.note(f"{len(found)} job{'' if len(found) == 1 else 's'}; nothing was done: --yes does it")
                return None

        failure = asyncio.run(requeued())
        if failure is not None:
            raise typer.Exit(exit_code(failure))


async def _chosen(listing: Listing, which: Wanted) -> list[Listed]:
    """All of them, before anything is done: what this makes is not to be found by it."""
    found: dict[str, Listed] = {}
    if which.open:
        async with aclosing(listing.all_open_jobs(which.takes)) as jobs:
            found.update({each.job_id: each async for each in jobs})
    if which.ended:
        async with aclosing(listing.all_ended_jobs(which.takes, may_take=which.may_take)) as jobs:
            found.update({each.job_id: each async for each in jobs})
    return list(found.values())


async def _requeue(requeuer: Requeuer, job_ids: list[str], output: Output, *, take: bool) -> TailraceError | None:
    """Do it, one after the other; the first refusal, after all others were tried. Raises what concerns all of them."""
    failure: TailraceError | None = None
    for job_id in job_ids:
        try:
            _tell(await requeuer.requeue(job_id, take=take), output)
        except (JobNotFound, InvalidRequest) as error:
            output.error(error)
            failure = failure or error
    return failure


def _tell(done: Requeueing, output: Output) -> None:
    if output.json:
        output.object({"job_id": done.job_id, "done": done.done.value, "new_job_id": done.new_id})
    else:
        output.line(f"{done.job_id} {_TOLD[done.done]}" + (f": {done.new_id}" if done.new_id else ""))
