"""Which jobs a command is about: the options that choose them, and what they mean by the server's clock."""

from collections.abc import Sequence
from typing import Annotated, Final

import typer

from tailrace.cli.options import duration
from tailrace.consumer import Wanted
from tailrace.schemas import InvalidRequest, Status

_WHICH: Final = "Which jobs"

Statuses = Annotated[
    list[str] | None,
    typer.Option(
        "--status",
        "-s",
        metavar="STATUS",
        help="queued, in_progress, completed, incomplete, failed, cancelled or expired; `open` and `ended` for all of a "
        "kind. Repeatable.",
        rich_help_panel=_WHICH,
        show_default=False,
    ),
]
Model = Annotated[
    str | None, typer.Option("--model", "-m", help="Of this model.", rich_help_panel=_WHICH, show_default=False)
]
Task = Annotated[str | None, typer.Option("--task", help="Of this task.", rich_help_panel=_WHICH, show_default=False)]
Tag = Annotated[str | None, typer.Option("--tag", help="With this tag.", rich_help_panel=_WHICH, show_default=False)]
Tenant = Annotated[
    str | None, typer.Option("--tenant", help="Of this tenant.", rich_help_panel=_WHICH, show_default=False)
]
Since = Annotated[
    str | None,
    typer.Option(
        "--since",
        metavar="DURATION",
        help="Submitted (ended jobs: ended) within the last 90s, 5m, 2h, 7d.",
        rich_help_panel=_WHICH,
        show_default=False,
    ),
]
Older = Annotated[
    str | None,
    typer.Option(
        "--older",
        metavar="DURATION",
        help="Submitted (ended jobs: ended) longer ago than this.",
        rich_help_panel=_WHICH,
        show_default=False,
    ),
]

_OPEN: Final = frozenset(status for status in Status if not status.ended)
_KINDS: Final = {"open": _OPEN, "ended": frozenset(Status) - _OPEN}


def statuses_of(given: Sequence[str] | None) -> frozenset[Status]:
    """The statuses that `--status` options name. Raises: InvalidRequest."""
    found: set[Status] = set()
    for name in given or ():
        if name in _KINDS:
            found |= _KINDS[name]
        elif name in set(Status):
            found.add(Status(name))
        else:
            raise InvalidRequest(f"--status {name!r} is none: use {', '.join(Status)}, open or ended")
    return frozenset(found)


def wanted(
    now_ms: int,
    *,
    statuses: frozenset[Status] = frozenset(),
    model: str | None = None,
    task: str | None = None,
    tag: str | None = None,
    tenant: str | None = None,
    since: str | None = None,
    older: str | None = None,
) -> Wanted:
    """What the options choose; `now_ms`: the server's clock. Raises: InvalidRequest."""
    since_s, older_s = duration("--since", since), duration("--older", older)
    return Wanted(
        statuses=statuses,
        model=model,
        task=task,
        tag=tag,
        tenant=tenant,
        since_ms=None if since_s is None else now_ms - round(since_s * 1000),
        before_ms=None if older_s is None else now_ms - round(older_s * 1000),
    )
