"""`tailrace jobs`: which jobs there are, those that have not ended first."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from json import loads as parse
from typing import Annotated, Any, Final

import typer

from tailrace import AsyncTailrace
from tailrace.cli.filters import Model, Older, Since, Statuses, Tag, Task, Tenant, statuses_of, wanted
from tailrace.cli.options import Config, Json, Namespace, RedisUrl, settings_of
from tailrace.cli.output import Output, compact, printable, reporting
from tailrace.consumer import Listed, Listing, Wanted
from tailrace.consumer.listing import ENDED_LOOKED_AT, LOOKED_AT

_COLUMNS: Final = "{:<37}  {:<11}  {:>7}  {:<24}  {}"
_HEAD: Final = _COLUMNS.format("JOB", "STATUS", "AGE", "MODEL OR TASK", "")
_SHOWN_ERROR: Final = 60
_SHOWN_PROMPT: Final = 100


def jobs(
    *,
    status: Statuses = None,
    model: Model = None,
    task: Task = None,
    tag: Tag = None,
    tenant: Tenant = None,
    since: Since = None,
    older: Older = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, help="How many open and how many ended jobs are shown at most.")
    ] = 20,
    look: Annotated[
        int,
        typer.Option(
            "--look", min=1, help="How many open jobs are looked at, at most; ended ones: a quarter, the last first."
        ),
    ] = LOOKED_AT,
    everything: Annotated[
        bool, typer.Option("--all", help="Look at all there are and show every one, as they are found, in no order.")
    ] = False,
    prompt: Annotated[
        bool,
        typer.Option("--prompt", help="Show what was asked as well: its beginning, with --json the whole request."),
    ] = False,
    json: Json = False,
    redis_url: RedisUrl = None,
    namespace: Namespace = None,
    config: Config = None,
) -> None:
    """List jobs: those that have not ended, then those that ended last. Of the ended ones the hand-off remembers the last
    10,000 (ended_kept)."""
    output = Output(json=json)
    with reporting(output):
        settings = settings_of(redis_url, namespace, config)
        statuses = statuses_of(status)

        async def listed() -> None:
            async with AsyncTailrace(settings=settings) as tailrace:
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
                listing = Listing(tailrace.broker, tailrace.settings.keys, tailrace.consumer)
                found = _every(listing, which) if everything else _some(listing, which, limit, look, output)
                await _show(found, output, now_ms, tailrace if prompt else None)

        asyncio.run(listed())


async def _every(listing: Listing, which: Wanted) -> AsyncGenerator[Listed]:
    if which.open:
        async with aclosing(listing.all_open_jobs(which.takes)) as found:
            async for each in found:
                yield each
    if which.ended:
        async with aclosing(listing.all_ended_jobs(which.takes, may_take=which.may_take)) as found:
            async for each in found:
                yield each


async def _some(listing: Listing, which: Wanted, limit: int, look: int, output: Output) -> AsyncGenerator[Listed]:
    if which.open:
        found, more = await listing.open_jobs(limit, which.takes, looked_at=look)
        for each in sorted(found, key=lambda listed: (listed.overview.status.value, _since(listed))):
            yield each
        if more:
            output.note(
                "there are more open jobs than were looked at or shown: --limit, --look, or --all for every one"
            )
    if which.ended:
        looked_at = max(1, look * ENDED_LOOKED_AT // LOOKED_AT)
        for each in await listing.ended_jobs(limit, which.takes, may_take=which.may_take, looked_at=looked_at):
            yield each


async def _show(found: AsyncGenerator[Listed], output: Output, now_ms: int, asking: AsyncTailrace | None) -> None:
    """`asking`: where to ask for requests, if they are to be shown."""
    headed = output.json
    async with aclosing(found):
        async for listed in found:
            if not headed:
                output.line(_HEAD.rstrip())
                headed = True
            asked = {} if asking is None else {"request": await _request(asking, listed.job_id)}
            if output.json:
                output.object(fields_of(listed) | asked)
                continue
            output.line(row_of(listed, now_ms))
            if asked:
                output.line(f"    {_beginning(asked['request'])}")
    if not headed:
        output.note("no such jobs")


async def _request(tailrace: AsyncTailrace, job_id: str) -> dict[str, Any]:
    """What was asked, as it is stored; empty if that is gone."""
    stored = await tailrace.broker.call("GET", tailrace.settings.keys.request(job_id))
    try:
        return dict(parse(stored)["request"]) if stored else {}
    except (ValueError, LookupError, TypeError):
        return {}


def _beginning(request: dict[str, Any]) -> str:
    """The beginning of what was asked; of a chat, of its last message."""
    asked = request.get("prompt") or request.get("input") or ""
    messages = request.get("messages")
    if isinstance(messages, list) and messages:
        asked = messages[-1].get("content", "")  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]  # JSON
    text = asked if isinstance(asked, str) else compact(asked)  # pyright: ignore[reportUnknownArgumentType]  # JSON
    return printable(_short(" ".join(text.split()), _SHOWN_PROMPT))


def fields_of(listed: Listed) -> dict[str, Any]:
    """A job as JSON: nothing that readers of the job may not know."""
    job, end = listed.overview.job, listed.overview.end or {}
    return {
        "job_id": listed.job_id,
        "status": listed.overview.status.value,
        "submitted": job.get("ts"),
        "deadline": job.get("deadline"),
        "ended": end.get("ts"),
        "model": job.get("model"),
        "task": job.get("task"),
        "tags": job.get("tags") or [],
        "tenant": job.get("tenant"),
        "attempts": end.get("attempts"),
        "error": end.get("error"),
    }


def row_of(listed: Listed, now_ms: int) -> str:
    """A job as one line."""
    job, end = listed.overview.job, listed.overview.end or {}
    error = end.get("error")
    what = job.get("model") or job.get("task") or job.get("api") or ""
    why = error.get("type", "") if isinstance(error, dict) else ", ".join(map(str, _list(job.get("tags"))))
    age = ago(now_ms - _since(listed)) if _since(listed) else "?"
    row = _COLUMNS.format(
        listed.job_id, listed.overview.status.value, age, _short(str(what), 24), _short(str(why), _SHOWN_ERROR)
    )
    # A tag or a model's name is whatever its submitter wrote.
    return printable(" ".join(row.splitlines())).replace("\t", " ").rstrip()


def ago(ms: float) -> str:
    """How long ago, in two figures at most: 5s, 3m, 2h, 4d."""
    seconds = max(0, int(ms / 1000))
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= size * 2:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _since(listed: Listed) -> int:
    at = (listed.overview.end or listed.overview.job).get("ts")
    return at if isinstance(at, int) else 0


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []  # pyright: ignore[reportUnknownVariableType]  # JSON of ours


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
