"""`tailrace doctor`: what is there, what is wrong with it, and how to put it right."""

import asyncio
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.markup import escape

from tailrace.cli.doctor_here import WORKER_EXTRA, disk, installation
from tailrace.cli.exits import ExitCode
from tailrace.cli.options import Config, Json, Namespace, RedisUrl, settings_of
from tailrace.cli.output import Output, printable, reporting
from tailrace.joblog import Broker, connected
from tailrace.joblog.all_servers import check_servers
from tailrace.joblog.suitability import Finding
from tailrace.schemas import BrokerUnavailable, InvalidRequest, Settings, TailraceError

if TYPE_CHECKING:
    from tailrace.worker.upstreams import Upstreams

_UPSTREAM_PATIENCE_S: Final = 15.0
_CLOCK_S: Final = 5.0
_MODELS_SHOWN: Final = 5
_STOPPED: Final = "stopped"
_UPSTREAM_CURES: Final = {
    "no_api_key": "export the key; without one, `tailrace worker --rehearsal` or `--local-model` answers jobs",
    "upstream_auth": "put a valid key into the variable that api_key_env names",
    "upstream_unreachable": "start it, or correct base_url or proxy (TAILRACE_CONFIG, OPENAI_BASE_URL)",
    "upstream_timeout": "look at its load and at the network between",
    "upstream_status": "look at the service's own status and logs",
}
#: By appendfsync. What a process has written outlives it in the kernel, and the server writes before it answers (with
#: everysec not while a sync takes longer than that); a power cut takes what is not synced yet.
_TERMS: Final = {
    "always": "nothing that was accepted is lost, neither when the server crashes nor at a power cut",
    "everysec": "a crash of the server loses nothing while its disk keeps up, a power cut about the last second",
    "no": "a crash of the server loses nothing, a power cut up to half a minute",
}
_NO_AOF: Final = "none: a crash of the server or a power cut loses all jobs and records since its last snapshot"
_UNKNOWN: Final = "not known, the server does not tell: without an AOF a crash loses all since its last snapshot"
_FSYNC_UNKNOWN: Final = (
    "AOF, fsync not known: a crash of the server loses nothing, a power cut a second, or half a minute"
)
_SIGNS: Final = {"ok": "[green]ok     [/]", "warning": "[yellow]warning[/]", "error": "[red]error  [/]"}


def doctor(
    *,
    upstreams: Annotated[
        bool, typer.Option("--upstreams/--no-upstreams", help="Ask the upstreams whether they take their key.")
    ] = True,
    json: Json = False,
    redis_url: RedisUrl = None,
    namespace: Namespace = None,
    config: Config = None,
) -> None:
    """Check the server, the upstreams and this installation; each finding with its cure. Exit code 4 if one is an error."""
    output = Output(json=json)
    with reporting(output):
        settings = settings_of(redis_url, namespace, config)
        worst = asyncio.run(_examine(settings, output, upstreams=upstreams))
        if worst == "error":
            raise typer.Exit(ExitCode.BROKER)


async def _examine(settings: Settings, output: Output, *, upstreams: bool) -> str:
    """Show the findings as they come; the gravest level."""
    levels: set[str] = set()
    async for about, finding in _findings(settings, upstreams=upstreams):
        levels.add(finding.level)
        _show(output, about, finding)
    return next((level for level in ("error", "warning") if level in levels), "ok")


def _show(output: Output, about: str, finding: Finding) -> None:
    if output.json:
        fields = {"about": about, "level": finding.level, "code": finding.code, "what": finding.what}
        fields |= {"cure": finding.cure} if finding.cure else {}
        output.object(fields | getattr(finding, "fields", {}))
        return
    if output.on_terminal:
        from rich.console import Console

        console = Console(highlight=False)
        console.print(f"{_SIGNS[finding.level]} {about:<9} {escape(printable(finding.what))}")
        if finding.cure:
            console.print(f"        {'':<9} -> {escape(printable(finding.cure))}")
        return
    output.line(f"{finding.level:<7} {about:<9} {finding.what}" + (f" -> {finding.cure}" if finding.cure else ""))


async def _findings(settings: Settings, *, upstreams: bool) -> AsyncGenerator[tuple[str, Finding]]:
    for finding in installation(settings):
        yield "here", finding
    worked = False
    for about, finding in await _server(settings):
        if (about, finding.code) == ("jobs", "open"):
            worked = bool(getattr(finding, "fields", {}).get("workers"))
        yield about, finding
    if upstreams:
        for finding in await _upstreams(settings):
            yield "upstream", _of_here(finding) if worked else finding


async def _server(settings: Settings) -> list[tuple[str, Finding]]:
    found: list[tuple[str, Finding]] = []
    try:
        with ExitStack() as stack:
            url = settings.redis_url
            on_trial = False
            if url is None:
                # A private server stops in some 100 ms; nothing else runs in this loop meanwhile.
                url, state, folder = stack.enter_context(_embedded())
                found.append(("embedded", state))
                on_trial = state.code == _STOPPED
                if folder is not None:
                    found.append(("embedded", disk(folder)))
            async with connected(url, settings.queue_url) as broker:
                servers = await check_servers(broker, settings.keys, role=None)
                for server in servers.each:
                    found += [(server.name, finding) for finding in server.findings]
                    if not server.away:
                        found.append((server.name, durability(server.findings)))
                found += [("servers", finding) for finding in servers.together]
                queue = next(server for server in servers.each if server.holds != "logs")
                if not queue.away:
                    found.append((queue.name, await _clock(broker.queue)))
                    if not on_trial:
                        found += [("jobs", finding) for finding in await _jobs(broker, settings)]
    except BrokerUnavailable as error:
        found.append(("server", Finding("error", "unavailable", *_what_and_cure(error))))
    except InvalidRequest:
        raise
    except TailraceError as error:
        found.append(("server", Finding("error", "unsuitable", *_what_and_cure(error))))
    return found


def durability(findings: Sequence[Finding]) -> Finding:
    """What this server loses at which disaster: the terms of every promise that outlives a process."""
    said = {finding.code: finding for finding in findings}
    terms = _UNKNOWN
    if "aof" in said:
        terms = _NO_AOF if said["aof"].level != "ok" else _FSYNC_UNKNOWN
    if "fsync" in said:
        named = said["fsync"].what.partition(":")[0].removeprefix("appendfsync ")
        terms = f"AOF, fsync {named}: {_TERMS[named]}" if named in _TERMS else terms
    return Finding("ok", "durability", f"durability: {terms}")


def _what_and_cure(error: TailraceError) -> tuple[str, str]:
    cure = getattr(
        error, "cure", "start the server, or correct TAILRACE_REDIS_URL; without it there is the embedded one"
    )
    return str(error).removesuffix(f": {cure}"), cure


@contextmanager
def _embedded() -> Generator[tuple[str, Finding, Path | None]]:
    """The shared server if it runs, else a private one for a trial: looking must not start what stays."""
    from tailrace.joblog.embedded import EmbeddedServer, embedded_status

    status = embedded_status()
    if status is not None:
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(status.started_at))
        what = f"runs since {since}: pid {status.pid}, port {status.port}, data in {status.folder}"
        yield status.url, Finding("ok", "running", what), status.folder
        return
    with EmbeddedServer(private=True) as server:
        what = "does not run; a trial start went well, it starts when it is needed"
        yield server.url, Finding("ok", _STOPPED, what), None


async def _clock(broker: Broker) -> Finding:
    before = time.time()
    now_ms = await broker.now_ms()
    after = time.time()
    ahead_s = now_ms / 1000 - (before + after) / 2
    told = f"the server's clock is {abs(ahead_s):.3f} s {'ahead of' if ahead_s > 0 else 'behind'} this machine's"
    if abs(ahead_s) > _CLOCK_S:
        return Finding(
            "warning",
            "clock",
            told,
            "synchronise both clocks (deadlines are the server's, shown times may be this one's)",
        )
    return Finding("ok", "clock", f"{told}, answers take {1000 * (after - before):.1f} ms")


async def _jobs(broker: Broker, settings: Settings) -> list[Finding]:
    try:
        from tailrace.cli.doctor_jobs import jobs_findings  # loads arq
    except ImportError:
        return [Finding("warning", "not-checked", "jobs are not checked without the worker's packages", WORKER_EXTRA)]
    from tailrace.cli.doctor_handoff import handoff_findings

    return [*await jobs_findings(broker, settings.keys), *await handoff_findings(broker, settings.keys)]


async def _upstreams(settings: Settings) -> list[Finding]:
    try:
        from tailrace.worker.upstreams import Upstreams  # loads openai
    except ImportError:
        return [Finding("warning", "not-checked", "upstreams are not checked without the worker's packages")]
    names = sorted(settings.upstreams) or ["default"]
    async with Upstreams(settings) as upstreams:
        return list(await asyncio.gather(*(_upstream(upstreams, name, settings) for name in names)))


def _of_here(finding: Finding) -> Finding:
    """A key that is missing here may be there where the workers are, and those of a rehearsal need none."""
    if finding.code != "no_api_key":
        return finding
    what = f"{finding.what.partition(': ')[0]}, which is not set here; workers are there, and may have it or need none"
    return Finding("warning", finding.code, what, finding.cure)


async def _upstream(upstreams: "Upstreams", name: str, settings: Settings) -> Finding:
    try:
        async with asyncio.timeout(_UPSTREAM_PATIENCE_S):
            check = await upstreams.check(name)
    except TimeoutError:
        return Finding(
            "error", "upstream_timeout", f"{name!r} did not answer in {_UPSTREAM_PATIENCE_S:g} s", "look at its network"
        )
    if check.error is None:
        chosen = settings.upstream(name)
        named = [] if chosen is None else [each for each in (chosen.default_model, *chosen.models) if each]
        unknown = [each for each in dict.fromkeys(named) if check.models and each not in check.models]
        if unknown:
            return Finding(
                "warning",
                "unknown-model",
                f"{name!r} at {check.base_url} does not list {', '.join(map(repr, unknown))}, which its configuration names",
                f"correct default_model or models (it has {', '.join(sorted(check.models)[:_MODELS_SHOWN])} ...)",
            )
        offers = f"{len(check.models)} models" if check.models else "no list of models"
        return Finding("ok", name, f"{name!r} at {check.base_url} takes the key: {offers}, {check.elapsed_ms:.0f} ms")
    cure = _UPSTREAM_CURES.get(check.error.type, "correct its configuration (TAILRACE_CONFIG)")
    return Finding("error", check.error.type, check.error.message, cure)
