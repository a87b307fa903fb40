"""`tailrace worker`: takes jobs and runs them, in one process or several."""

import signal
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from tailrace.cli.exits import ExitCode
from tailrace.cli.metrics import MetricsHost, MetricsPort, chosen, require_metrics
from tailrace.cli.options import Config, Json, LogFormat, LogLevel, Namespace, RedisUrl, settings_of
from tailrace.cli.output import Output, reporting
from tailrace.cli.standins import missing_worker_extra, stand_in
from tailrace.schemas import InvalidRequest, Settings
from tailrace.schemas.sections import WorkerSettings


def worker(
    app: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODULE:APP]", help="Where your tasks are: a tailrace.App in a module.", show_default=False
        ),
    ] = None,
    *,
    processes: Annotated[int, typer.Option(min=1, max=256, help="Worker processes; dead ones are started again.")] = 1,
    max_jobs: Annotated[
        int | None, typer.Option(min=1, help="Jobs at a time in each process; default 1000.", show_default=False)
    ] = None,
    queue: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Take jobs from this queue. Repeatable: the first one's jobs go first. Default: default.",
            show_default=False,
        ),
    ] = None,
    rehearsal: Annotated[
        bool, typer.Option("--rehearsal", help="Answer every job from the built-in scripted upstream: no key, no cost.")
    ] = False,
    local_model: Annotated[
        bool, typer.Option("--local-model", help="Answer every job with a small language model on this machine.")
    ] = False,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = None,
    json: Json = False,
    redis_url: RedisUrl = None,
    namespace: Namespace = None,
    config: Config = None,
    log_format: LogFormat = None,
    log_level: LogLevel = None,
) -> None:
    """Take jobs and run them, until SIGTERM or Ctrl-C: running jobs may end then, a second signal hands them back."""
    output = Output(json=json)
    with reporting(output, interrupted=lambda: "interrupted before it took jobs"):
        settings = settings_of(redis_url, namespace, config, log_format=log_format, log_level=log_level)
        given = {**({} if max_jobs is None else {"max_jobs": max_jobs}), **chosen(metrics_port, metrics_host)}
        settings = settings.model_copy(update={"worker": settings.worker.model_copy(update=given)})
        if queue:
            settings = _taking_from(settings, queue)
        require_metrics(settings.worker.metrics_port)
        try:
            from tailrace.cli import serving  # loads arq and openai
        except ImportError as error:
            raise missing_worker_extra(error) from error
        # The children of a supervisor export what they do; itself it does nothing.
        with serving.observed(settings, "tailrace-worker" if processes == 1 else None):
            settings = serving.with_server(settings)
            serving.run_loop(serving.require_server(settings))
            with stand_in(settings, output, rehearsal=rehearsal, local_model=local_model) as complete:
                stopped_by = _serve(complete, output, processes, app)
        if stopped_by is signal.SIGINT:
            raise typer.Exit(ExitCode.INTERRUPTED)


def _taking_from(settings: Settings, queues: list[str]) -> Settings:
    """Raises: InvalidRequest."""
    try:
        worker = WorkerSettings.model_validate({**settings.worker.model_dump(), "queues": queues})
    except ValidationError as error:
        raise InvalidRequest(f"--queue: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
    return settings.model_copy(update={"worker": worker})


def _serve(settings: Settings, output: Output, processes: int, app: str | None) -> signal.Signals | None:
    """Run workers until a signal; which one it was."""
    from tailrace.cli import serving
    from tailrace.cli.applications import load_app
    from tailrace.cli.supervisor import Supervisor

    # Here too when it is the children that run it: what is wrong with it is said at once, and once.
    loaded = load_app(app) if app else None
    shown: dict[str, Any] = {
        "ready": True,
        "namespace": settings.namespace,
        "upstreams": {upstream.name: upstream.origin for upstream in serving.served(settings)},
        "queues": settings.worker.queues,
        "tasks": sorted(loaded.tasks) if loaded else [],
    }

    def tell(**who: Any) -> None:
        if output.json:
            output.object({**shown, **who})

    if processes > 1:

        async def supervised() -> signal.Signals | None:
            supervisor = Supervisor(settings, processes, app=app)
            serving.announce(settings, f"a supervisor of {processes} worker processes", loaded)
            await supervisor.run(lambda pids: tell(pids=pids))
            return supervisor.stopped_by

        return serving.run_loop(supervised())

    async def alone() -> signal.Signals | None:
        worker = serving.Serving(settings, loaded)

        def ready(name: str) -> None:
            serving.announce(settings, f"worker {name!r}", loaded)
            tell(worker=name, **({} if worker.metrics_url is None else {"metrics": worker.metrics_url}))

        await worker.run(ready)
        return worker.stopped_by

    return serving.run_loop(alone())
