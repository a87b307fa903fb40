"""`tailrace purge`: remove what is no longer wanted. Everything is shown first, and removed with --yes."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Annotated, Any, Final

import typer

from tailrace import AsyncTailrace
from tailrace.cli.exits import ExitCode
from tailrace.cli.filters import Model, Older, Statuses, Tag, Task, Tenant, statuses_of, wanted
from tailrace.cli.options import Config, Json, Namespace, RedisUrl, duration, settings_of
from tailrace.cli.output import Output, reporting
from tailrace.producer import Purger
from tailrace.schemas import BrokerUnavailable, InvalidRequest

purge: Final = typer.Typer(
    help="Remove what is no longer wanted: shown first, removed with --yes.", no_args_is_help=True
)

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Remove it. Without it, it is only counted.")]

#: What a command of ours does with an open client and its purger; what it says as JSON.
_Work = Callable[[AsyncTailrace, Purger], Awaitable[dict[str, Any]]]


@purge.command()
def jobs(
    *,
    status: Statuses = None,
    model: Model = None,
    task: Task = None,
    tag: Tag = None,
    tenant: Tenant = None,
    older: Older = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All that have ended, however and whenever.", rich_help_panel="Which jobs")
    ] = False,
    yes: Yes = False,
    json: Json = False,
    redis_url: RedisUrl = None,
    namespace: Namespace = None,
    config: Config = None,
) -> None:
    """Delete jobs that have ended: requests, records, results. Open jobs are not touched. Walks through all keys of the
    database, a thousand at a time."""
    statuses_given = bool(status)

    async def purged(tailrace: AsyncTailrace, purger: Purger) -> dict[str, Any]:
        statuses = statuses_of(status or ["ended"])
        if any(not each.ended for each in statuses):
            raise InvalidRequest("only jobs that have ended are purged: `tailrace cancel` and `delete` end one")
        if everything == bool(statuses_given or model or task or tag or tenant or older):
            raise InvalidRequest("say which jobs: --older 7d, --status failed, --tag ..., or --all")
        now_ms = await tailrace.broker.now_ms()
        which = wanted(now_ms, statuses=statuses, model=model, task=task, tag=tag, tenant=tenant, older=older)
        seen: set[str] = set()
        removed = 0
        async with aclosing(purger.ended_jobs(which.takes)) as found:
            async for job_id, _ in found:
                if job_id in seen:
                    continue
                seen.add(job_id)
                removed += yes and await purger.delete(job_id)
        return {"purged": "jobs", "found": len(seen), "removed": removed}

    _run(purged, redis_url, namespace, config, json=json, yes=yes)


@purge.command()
def parked(
    group: Annotated[str, typer.Argument(metavar="GROUP", help="The group that gave them up.", show_default=False)],
    *,
    older: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Parked longer ago than this.", show_default=False)
    ] = None,
    yes: Yes = False,
    json: Json = False,
    redis_url: RedisUrl = None,
    namespace: Namespace = None,
    config: Config = None,
) -> None:
    """Forget what a group of the hand-off has parked. (The jobs stay; a webhook's group is webhook.NAME.)"""

    async def purged(tailrace: AsyncTailrace, purger: Purger) -> dict[str, Any]:
        older_s = duration("--older", older)
        before_ms = None if older_s is None else await tailrace.broker.now_ms() - round(older_s * 1000)
        count = await purger.parked(group, before_ms=before_ms, remove=yes)
        return {"purged": "parked", "found": count, "removed": count if yes else 0}

    _run(purged, redis_url, namespace, config, json=json, yes=yes)


@purge.command()
def group(
    name: Annotated[str, typer.Argument(metavar="GROUP", help="The group's name.", show_default=False)],
    *,
    yes: Yes = False,
    json: Json = False,
    redis_url: RedisUrl = None,
    namespace: Namespace = None,
    config: Config = None,
) -> None:
    """Remove a group of the hand-off that nobody reads any more: it holds back everything it has not acknowledged."""

    async def purged(_tailrace: AsyncTailrace, purger: Purger) -> dict[str, Any]:
        there = await purger.groups()
        if name not in there:
            raise InvalidRequest(f"there is no group {name!r}: there is {', '.join(there) or 'none'}")
        return {"purged": "group", "found": 1, "removed": min(1, await purger.drop_group(name)) if yes else 0}

    _run(purged, redis_url, namespace, config, json=json, yes=yes)


@purge.command()
def workers(
    *,
    yes: Yes = False,
    json: Json = False,
    redis_url: RedisUrl = None,
    namespace: Namespace = None,
    config: Config = None,
) -> None:
    """Forget workers that fell silent: doctor and top name them for an hour."""

    async def purged(_tailrace: AsyncTailrace, purger: Purger) -> dict[str, Any]:
        dead = await purger.dead_workers(remove=yes)
        return {"purged": "workers", "found": len(dead), "removed": len(dead) if yes else 0, "workers": dead}

    _run(purged, redis_url, namespace, config, json=json, yes=yes)


@purge.command(name="namespace")
def whole_namespace(
    *,
    confirm: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The namespace's name once more: without it, its keys are only counted.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
    redis_url: RedisUrl = None,
    namespace: Namespace = None,
    config: Config = None,
) -> None:
    """Remove everything: queued and running jobs, results, groups. Refused while a worker is there."""

    async def purged(tailrace: AsyncTailrace, purger: Purger) -> dict[str, Any]:
        name = tailrace.settings.namespace
        if confirm is not None and confirm != name:
            raise InvalidRequest(f"--confirm {confirm!r} is not the namespace, which is {name!r}: nothing was removed")
        if confirm is not None and (there := await purger.live_workers()):
            raise InvalidRequest(f"stop its workers first ({', '.join(there[:3])}): nothing was removed")
        count = 0
        async with aclosing(purger.whole_namespace(remove=confirm is not None)) as steps:
            async for so_far in steps:
                count = so_far
        return {"purged": "namespace", "namespace": name, "found": count, "removed": count if confirm else 0}

    _run(purged, redis_url, namespace, config, json=json, yes=confirm is not None, how="--confirm NAME")


_NOUNS: Final = {
    "jobs": "ended jobs",
    "parked": "parked entries",
    "group": "group",
    "workers": "silent workers",
    "namespace": "keys",
}


def _run(
    work: _Work,
    redis_url: str | None,
    namespace: str | None,
    config: Any,
    *,
    json: bool,
    yes: bool,
    how: str = "--yes",
) -> None:
    output = Output(json=json)
    with reporting(output):
        settings = settings_of(redis_url, namespace, config)

        async def worked() -> tuple[dict[str, Any], dict[str, BrokerUnavailable]]:
            async with AsyncTailrace(settings=settings) as tailrace:
                purger = Purger(tailrace.broker, tailrace.settings.keys, tailrace.producer)
                return await work(tailrace, purger), purger.left

        said, left = asyncio.run(worked())
        if output.json:
            output.object({**said, **({"left": list(left)} if left else {})})
        elif yes:
            output.line(f"{said['removed']} {_NOUNS[said['purged']]} removed")
        else:
            output.line(f"{said['found']} {_NOUNS[said['purged']]}")
            output.note(f"nothing was removed: {how} does it")
        for place, why in left.items():
            output.error(BrokerUnavailable(f"what {place} has was left: {why} Run it again once {place} is back"))
        if left:
            raise typer.Exit(ExitCode.BROKER)
