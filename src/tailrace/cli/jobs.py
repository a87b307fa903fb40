"""Commands about single jobs, and about the embedded server: `submit`, `tail`, `status`, `cancel`, `delete`, `stop`."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from tailrace import AsyncTailrace
from tailrace.cli.options import (
    Config,
    JobId,
    Json,
    Namespace,
    RedisUrl,
    duration,
    json_pairs,
    pairs,
    prompt_text,
    settings_of,
    task_input,
)
from tailrace.cli.output import Output, reporting
from tailrace.cli.tail import Form, Tail
from tailrace.joblog import Overview
from tailrace.schemas import DEFAULT_QUEUE, START, InvalidRequest, Position, Settings, Status, parse_position

_REQUEST = "The request"


def submit(
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT",
            help="The prompt, or a task's input (JSON, else text); `-`, or none with piped input, reads standard input.",
        ),
    ] = None,
    *,
    task: Annotated[
        str | None,
        typer.Option(
            help="Run this registered task instead of a prompt.", rich_help_panel=_REQUEST, show_default=False
        ),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", rich_help_panel=_REQUEST, show_default=False)] = None,
    upstream: Annotated[
        str, typer.Option(help="The upstream, as the workers' configuration names it.", rich_help_panel=_REQUEST)
    ] = "default",
    queue: Annotated[
        str, typer.Option(help="The queue that it waits in, for the workers that serve it.", rich_help_panel="The job")
    ] = DEFAULT_QUEUE,
    api: Annotated[
        str,
        typer.Option(help="auto, chat, completions or responses; auto: by the model's name.", rich_help_panel=_REQUEST),
    ] = "auto",
    max_tokens: Annotated[int | None, typer.Option(rich_help_panel=_REQUEST, show_default=False)] = None,
    temperature: Annotated[float | None, typer.Option(rich_help_panel=_REQUEST, show_default=False)] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=JSON",
            help="Any field of the upstream's request body, e.g. top_p=0.9 or 'stop=[\"\\n\"]'. Repeatable.",
            rich_help_panel=_REQUEST,
            show_default=False,
        ),
    ] = None,
    job_id: Annotated[
        str | None,
        typer.Option(
            help="An id of your own: submitting the same request again gives the same job.",
            rich_help_panel="The job",
            show_default=False,
        ),
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option(help="Repeatable.", rich_help_panel="The job", show_default=False)
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Public: every reader gets it. Repeatable.",
            rich_help_panel="The job",
            show_default=False,
        ),
    ] = None,
    deadline: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="When the job expires: seconds, or 90s, 5m, 2h. Default: 1h after the delay.",
            rich_help_panel="The job",
            show_default=False,
        ),
    ] = None,
    delay: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION", help="Run it no sooner than this.", rich_help_panel="The job", show_default=False
        ),
    ] = None,
    retention: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="How long it can be read after its end. Default: 1d.",
            rich_help_panel="The job",
            show_default=False,
        ),
    ] = None,
    on_restart: Annotated[
        str,
        typer.Option(help="When a worker dies over it: splice, continue or fail.", rich_help_panel="The job"),
    ] = "splice",
    max_attempts: Annotated[int, typer.Option(rich_help_panel="The job")] = 3,
    then: Annotated[
        str | None,
        typer.Option(
            metavar="TASK",
            help="The task to start with the result, if the job ends well.",
            rich_help_panel="The job",
            show_default=False,
        ),
    ] = None,
    tail: Annotated[
        bool, typer.Option("--tail", "-t", help="Follow the job to its end; its id goes to standard error then.")
    ] = False,
    json: Json = False,
    redis_url: RedisUrl = None,
    namespace: Namespace = None,
    config: Config = None,
) -> None:
    """Store and queue a prompt, or a task; prints the job's id."""
    output = Output(json=json)
    following: list[Tail] = []

    def interrupted() -> str | None:
        return following[0].how_to_go_on() if following else None

    with reporting(output, interrupted=interrupted):
        settings = settings_of(redis_url, namespace, config)
        limit = settings.limits.text_bytes
        if task is not None:
            asked: dict[str, Any] = {"task": task, "input": task_input(prompt, limit=limit)}
        else:
            asked = {"input" if api == "responses" else "prompt": prompt_text(prompt, limit=limit)}
        params = json_pairs("--param", param)
        for name, value in (("max_tokens", max_tokens), ("temperature", temperature)):
            if value is not None and params.setdefault(name, value) != value:
                raise InvalidRequest(f"{name!r} is given twice: once as --param and once as an option of its own")
        request: dict[str, Any] = {
            **asked,
            "api": api,
            "model": model,
            "upstream": upstream,
            "queue": queue,
            "job_id": job_id,
            "tags": tag,
            "metadata": pairs("--metadata", metadata),
            "deadline": duration("--deadline", deadline),
            "delay": duration("--delay", delay),
            "retention": duration("--retention", retention),
            "on_restart": on_restart,
            "max_attempts": max_attempts,
            "then": then,
            "params": params,
        }

        async def submitted() -> None:
            async with AsyncTailrace(settings=settings) as tailrace:
                job = await tailrace.submit(**request)
                if output.json:
                    output.object({"job_id": job.id})
                elif tail:
                    output.note(f"job {job.id}")
                else:
                    output.line(job.id)
                if tail:
                    following.append(Tail(job.id, output, namespace=namespace))
                    await following[0].run(tailrace)

        asyncio.run(submitted())


def tail(
    job_id: JobId,
    *,
    events: Annotated[
        bool, typer.Option("--events", help="The events of all steps: a live tree on a terminal, else one a line.")
    ] = False,
    records: Annotated[
        bool, typer.Option("--records", help="The raw records with their positions, one a line.")
    ] = False,
    after: Annotated[
        str, typer.Option(metavar="POSITION", help="Go on just after this position.", show_default=False)
    ] = START,
    json: Json = False,
    redis_url: RedisUrl = None,
    namespace: Namespace = None,
    config: Config = None,
) -> None:
    """Follow a job, from its beginning or a position: its text as it comes, to its end."""
    output = Output(json=json)
    form = Form.EVENTS if events else Form.RECORDS if records else Form.TEXT
    following = Tail(job_id, output, after=after, form=form, namespace=namespace)
    with reporting(output, interrupted=following.how_to_go_on):
        if events and records:
            raise InvalidRequest("--events and --records exclude one another")
        parse_position(Position(after))
        settings = settings_of(redis_url, namespace, config)

        async def followed() -> None:
            async with AsyncTailrace(settings=settings) as tailrace:
                await following.run(tailrace)

        asyncio.run(followed())


def status(
    job_id: JobId,
    *,
    json: Json = False,
    redis_url: RedisUrl = None,
    namespace: Namespace = None,
    config: Config = None,
) -> None:
    """Where a job stands: queued, in_progress, completed, incomplete, failed, cancelled or expired."""
    output = Output(json=json)
    with reporting(output):
        settings = settings_of(redis_url, namespace, config)
        overview = asyncio.run(_look(settings, job_id))
        if output.json:
            output.object(
                {
                    "job_id": job_id,
                    "status": overview.status.value,
                    "position": overview.top,
                    "job": overview.job,
                    "end": overview.end,
                }
            )
            return
        output.line(overview.status.value)
        for line in _details(overview):
            output.line(f"  {line}")


async def _look(settings: Settings, job_id: str) -> Overview:
    async with AsyncTailrace(settings=settings) as tailrace:
        return await tailrace.consumer.look(tailrace.job(job_id).id)


def _details(overview: Overview) -> list[str]:
    job, end = overview.job, overview.end or {}
    lines = [
        f"{name:<10} {', '.join(map(str, value)) if isinstance(value, list) else value}"
        for name in ("model", "task", "queue", "tags")
        if (value := job.get(name))
    ]
    for name, ms in (("submitted", job.get("ts")), ("deadline", job.get("deadline")), ("ended", end.get("ts"))):
        # Once it has ended, when it would have expired is of no interest.
        if isinstance(ms, int) and ms and not (name == "deadline" and end):
            lines.append(f"{name:<10} {datetime.fromtimestamp(ms / 1000, UTC).astimezone():%Y-%m-%d %H:%M:%S %Z}")
    for name, value in (("attempts", end.get("attempts")), ("finish", end.get("finish_reason"))):
        if value:
            lines.append(f"{name:<10} {value}")
    error = end.get("error")
    if isinstance(error, dict):
        lines.append(f"{'reason':<10} {error.get('type')}: {error.get('message')}")
    return lines


def cancel(
    job_id: JobId,
    *,
    json: Json = False,
    redis_url: RedisUrl = None,
    namespace: Namespace = None,
    config: Config = None,
) -> None:
    """Cancel a job, whatever state it is in; what it has put out stands. Prints the status it ended with."""
    output = Output(json=json)
    with reporting(output):
        settings = settings_of(redis_url, namespace, config)

        async def cancelled() -> Status:
            async with AsyncTailrace(settings=settings) as tailrace:
                return await tailrace.job(job_id).cancel()

        ended = asyncio.run(cancelled())
        if output.json:
            output.object({"job_id": job_id, "status": ended.value})
            return
        output.line(ended.value)
        if ended is not Status.CANCELLED:
            output.note(f"job {job_id!r} had ended before")


def delete(
    job_id: JobId,
    *,
    json: Json = False,
    redis_url: RedisUrl = None,
    namespace: Namespace = None,
    config: Config = None,
) -> None:
    """Remove a job's request and records; a running one is cancelled first. Its id stays taken for a while."""
    output = Output(json=json)
    with reporting(output):
        settings = settings_of(redis_url, namespace, config)

        async def deleted() -> None:
            async with AsyncTailrace(settings=settings) as tailrace:
                await tailrace.job(job_id).delete()

        asyncio.run(deleted())
        if output.json:
            output.object({"job_id": job_id, "deleted": True})
        else:
            output.line("deleted")


def stop(*, json: Json = False) -> None:
    """Stop the embedded server, which otherwise runs until a reboot. Its data stays, and so do the jobs."""
    output = Output(json=json)
    with reporting(output):
        from tailrace.joblog.embedded import stop_embedded  # no other command here needs it

        stopped = stop_embedded()
        if output.json:
            output.object({"stopped": stopped})
        else:
            output.line("stopped" if stopped else "it was not running")
