"""Upstreams that a command starts for itself: the rehearsal and the local model."""

import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from tailrace.cli.exits import MissingExtra
from tailrace.cli.output import Output, is_terminal
from tailrace.schemas import InvalidRequest, Settings, UpstreamSettings

#: The names that lists of models and of jobs show.
REHEARSAL_NAME: Final = "rehearsal"
LOCAL_MODEL_NAME: Final = "smollm2-135m-instruct"
_NOTED_STEPS: Final = 10


@contextmanager
def stand_in(settings: Settings, output: Output, *, rehearsal: bool, local_model: bool) -> Generator[Settings]:
    """The settings; with a stand-in, every upstream in them is it, so that no job goes elsewhere by its name.

    Blocks for seconds while the local model starts, longer when it has to be fetched.
    Raises: InvalidRequest, MissingExtra, ModelUnavailable, UpstreamNotStarted.
    """
    if rehearsal and local_model:
        raise InvalidRequest("--rehearsal and --local-model exclude one another")
    with ExitStack() as stack:
        if rehearsal:
            url, model = stack.enter_context(rehearsal_upstream()), REHEARSAL_NAME
        elif local_model:
            url, model = stack.enter_context(local_model_upstream(output)), LOCAL_MODEL_NAME
        else:
            yield settings
            return
        yield settings.model_copy(update={"upstreams": answered_by(url, model, {"default", *settings.upstreams})})


def answered_by(base_url: str, model: str, names: set[str]) -> dict[str, UpstreamSettings]:
    """Upstreams of these names which are all one service without a key, and answer to any model's name."""
    return {name: UpstreamSettings(base_url=base_url, api_key_env="", default_model=model) for name in names}


@contextmanager
def rehearsal_upstream(script: str = "") -> Generator[str]:
    """The base URL of a rehearsal upstream, a process of its own that ends with the block."""
    try:
        from tailrace.upstreams.rehearsal import RehearsalProcess  # needs aiohttp
    except ImportError as error:
        raise missing_worker_extra(error) from error
    with RehearsalProcess(script=script) as server:
        yield server.base_url


@contextmanager
def local_model_upstream(output: Output) -> Generator[str]:
    """The base URL of the local model, fetched first if it is not here yet; a process that ends with the block."""
    from tailrace.upstreams.local_model import LocalModel, is_installed  # few need it

    if not is_installed():
        raise MissingExtra("the local model needs llama.cpp: pip install 'tailrace[local-model]'")
    path = _fetched(output)
    console = output.console()
    with ExitStack() as stack:
        with console.status("starting the local model"):
            model = stack.enter_context(LocalModel(path))
        yield model.base_url


def _fetched(output: Output) -> Path:
    from tailrace.upstreams.local_model import ensure_model

    with ExitStack() as stack:
        shown: list[Progress] = []
        noted: set[int] = set()

        def on_terminal(done: int, total: int) -> None:
            if not shown:
                columns = (TextColumn("fetching the local model"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
                shown.append(stack.enter_context(Progress(*columns, console=output.console(), transient=True)))
                shown[0].add_task("", total=total)
            shown[0].update(shown[0].task_ids[0], completed=done)

        def in_lines(done: int, total: int) -> None:
            step = _NOTED_STEPS * done // max(total, 1)
            if step not in noted:
                noted.add(step)
                output.note(f"fetching the local model: {done / 1e6:.0f} of {total / 1e6:.0f} MB")

        return ensure_model(on_terminal if is_terminal(sys.stderr) else in_lines)


def missing_worker_extra(error: ImportError) -> MissingExtra:
    """What to say when a package of the worker is not there."""
    return MissingExtra(f"this command needs {error.name or 'packages'} of the worker: pip install 'tailrace[worker]'")
