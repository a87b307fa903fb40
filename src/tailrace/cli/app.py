"""The commands put together."""

import sys
from importlib.metadata import version
from io import TextIOWrapper
from typing import Annotated, Final

import typer

from tailrace.cli import dev, doctor, jobs, keys, listing, purge, requeue, serve, top, webhooks, worker
from tailrace.cli.demo import command as demo

_EPILOG: Final = (
    "Exit codes: 0 well; 1 the job failed or expired; 2 usage or an invalid request; 3 no such job; "
    "4 Redis does not answer or is not suitable; 5 the job was cancelled; 130 interrupted; 141 output closed.\n\n"
    "Without TAILRACE_REDIS_URL all commands share an embedded server, started when it is needed (`tailrace stop` "
    "stops it)."
)

app: Final = typer.Typer(
    name="tailrace",
    help="LLM output as background jobs: submit a prompt, follow every token by job id, from anywhere, at any time.",
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tailrace {version('tailrace')}")
        raise typer.Exit


@app.callback()
def _options(  # pyright: ignore[reportUnusedFunction]  # registered by the decorator
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None: ...


app.command(epilog=_EPILOG)(demo.demo)
for _command in (
    dev.dev,
    worker.worker,
    serve.serve,
    webhooks.webhooks,
    jobs.submit,
    jobs.tail,
    jobs.status,
    jobs.cancel,
    jobs.delete,
    listing.jobs,
    top.top,
    requeue.requeue,
    doctor.doctor,
    jobs.stop,
):
    app.command(epilog=_EPILOG)(_command)
app.add_typer(purge.purge, name="purge")
app.add_typer(keys.keys, name="keys")


def main() -> None:
    """The `tailrace` command."""
    for stream in (sys.stdout, sys.stderr):
        # A model may write any character, a terminal's encoding may know a few: show what can be shown.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    app()
