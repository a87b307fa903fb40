"""`tailrace demo`: its options, its upstream, and what it shows at the end."""

import asyncio
import logging
import os
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from tailrace.cli.demo.aftermath import show, show_chaos
from tailrace.cli.demo.programme import (
    CHAOS_LOCAL_PARAMS,
    CHAOS_MAX_TOKENS,
    CHAOS_PROMPT,
    CHAOS_REHEARSAL,
    MAX_TOKENS,
    PROMPT,
    REHEARSAL,
    expected_chunks,
)
from tailrace.cli.exits import ExitCode, MissingExtra, exit_code
from tailrace.cli.options import Json
from tailrace.cli.output import Output, reporting
from tailrace.cli.standins import (
    LOCAL_MODEL_NAME,
    REHEARSAL_NAME,
    answered_by,
    local_model_upstream,
    missing_worker_extra,
    rehearsal_upstream,
)
from tailrace.schemas import InvalidRequest, Settings, UpstreamSettings
from tailrace.schemas.secrets import FILE, secret_of

#: Nobody waits longer for a demo.
_DEADLINE_S: Final = 180.0
#: But whoever kills a worker has its text written twice, on this machine by a model that needs all of it.
_CHAOS_DEADLINE_S: Final = 600.0
_INTERRUPTED: Final = "interrupted; everything that the demo started is stopped"


@dataclass(frozen=True, slots=True)
class Chosen:
    """The upstream of the demo, and how it is called."""

    upstreams: dict[str, UpstreamSettings]
    what: str
    rehearsed: bool = False
    chaos_params: dict[str, Any] = field(default_factory=dict[str, Any])
    """What the long answer under blows needs there."""


def demo(
    prompt: Annotated[
        str | None, typer.Argument(help="What to ask; by default a song, or with --chaos a tale.")
    ] = None,
    *,
    model: Annotated[str, typer.Option("--model", "-m")] = "gpt-3.5-turbo-instruct",
    temperature: Annotated[float, typer.Option()] = 0,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help=f"Default {MAX_TOKENS}; with --chaos {CHAOS_MAX_TOKENS}.")
    ] = None,
    chaos: Annotated[
        bool, typer.Option("--chaos", help="Kill the worker twice and the server once (kill -9) while the three read.")
    ] = False,
    rehearsal: Annotated[
        bool, typer.Option("--rehearsal", help="Answer from the built-in scripted upstream: no key, no model.")
    ] = False,
    local_model: Annotated[
        bool, typer.Option("--local-model", help="Answer with the local model, also where a key is set.")
    ] = False,
    json: Json = False,
) -> None:
    """One job and three readers, on a server of its own: shows everything in a minute and leaves nothing running.

    The upstream is the one that OPENAI_API_KEY or OPENAI_BASE_URL name, else a small language model on this machine
    (fetched once), else the built-in rehearsal.
    """
    output = Output(json=json)
    with reporting(output, interrupted=lambda: _INTERRUPTED):
        if rehearsal and local_model:
            raise InvalidRequest("--rehearsal and --local-model exclude one another")
        try:
            from tailrace.cli.demo.chaos import perform_chaos  # these load arq and openai
            from tailrace.cli.demo.stage import perform
        except ImportError as error:
            raise missing_worker_extra(error) from error
        from tailrace.cli.demo.screen import LiveScreen, PlainScreen
        from tailrace.joblog.embedded import EmbeddedServer

        logging.getLogger("tailrace").addHandler(logging.NullHandler())
        prompt = prompt or (CHAOS_PROMPT if chaos else PROMPT)
        max_tokens = max_tokens or (CHAOS_MAX_TOKENS if chaos else MAX_TOKENS)
        request: dict[str, Any] = {
            "prompt": prompt,
            "model": model,
            "temperature": temperature,
            "max_tokens": max_tokens,
            "deadline": _CHAOS_DEADLINE_S if chaos else _DEADLINE_S,
        }
        console = Console(highlight=False)
        live = output.on_terminal and not output.json
        plain = output if not output.json else _Noted(json=True)
        screen = LiveScreen(console) if live else PlainScreen(plain, timed=chaos)
        with ExitStack() as stack:
            _tell(output, "server", "a private one for this demo (your own Redis is not touched)")
            server = stack.enter_context(EmbeddedServer(private=True))
            choice = upstream_of(output, rehearsal=rehearsal, local_model=local_model, chaos=chaos)
            chosen = stack.enter_context(choice)
            _tell(output, "upstream", chosen.what)
            _tell(
                output,
                "prompt",
                f"{_one_line(prompt)}  ({model}, temperature {temperature:g}, max_tokens {max_tokens})",
            )
            settings = Settings.load(redis_url=server.url, namespace="demo", upstreams=chosen.upstreams)
            if chaos:
                _tell(output, "blows", "kill -9 of the worker that writes, of the server, of the worker that writes")
                request |= chosen.chaos_params
                chunks = expected_chunks(max_tokens, rehearsed=chosen.rehearsed)
                struck = asyncio.run(perform_chaos(server, settings, request, screen, chunks=chunks))
                ended, kept = struck.ended, partial(show_chaos, output, struck, chosen.what)
            else:
                performance = asyncio.run(perform(settings, request, screen))
                ended, kept = performance.ended, partial(show, output, performance, chosen.what)
        # After the processes have ended: a pipe that closes must not keep them.
        if not kept():
            output.note(
                "error: the promises were not kept" if chaos else "error: the readers did not get the same text"
            )
            raise typer.Exit(ExitCode.FAILED)
        if ended is not None:
            output.error(ended)
            raise typer.Exit(exit_code(ended))


class _Noted(Output):
    """Lines that go to standard error, because standard output has JSON only."""

    def line(self, text: str) -> None:
        self.note(text)


def _tell(output: Output, name: str, text: str) -> None:
    line = f"{name:<9} {text}"
    output.note(line) if output.json else output.line(line)


@contextmanager
def upstream_of(output: Output, *, rehearsal: bool, local_model: bool, chaos: bool = False) -> Generator[Chosen]:
    """The key's upstream, else the local model, else the rehearsal. Says why when it is not what one would hope for."""
    script = CHAOS_REHEARSAL if chaos else REHEARSAL
    with ExitStack() as stack:
        if rehearsal:
            yield _rehearsal(stack, script, "the rehearsal, a scripted server on this machine: no model is asked")
            return
        key, base_url = secret_of("OPENAI_API_KEY"), os.environ.get("OPENAI_BASE_URL")
        if (key or base_url) and not local_model:
            from tailrace.worker.upstream_http import origin

            where = origin(base_url) if base_url else "OpenAI"
            names = ("OPENAI_API_KEY", f"OPENAI_API_KEY{FILE}", "OPENAI_BASE_URL")
            named = " and ".join(name for name in names if os.environ.get(name))
            upstream = UpstreamSettings() if key else UpstreamSettings(api_key_env="")
            yield Chosen({"default": upstream}, f"{where}, from {named}")
            return
        from tailrace.upstreams.local_model import ModelUnavailable, UpstreamNotStarted

        try:
            url = stack.enter_context(local_model_upstream(output))
        except (MissingExtra, ModelUnavailable, UpstreamNotStarted) as error:
            if local_model:
                raise
            _tell(output, "upstream", f"no local model: {_one_line(error)}")
            chosen = _rehearsal(
                stack, script, "instead the rehearsal, a scripted server on this machine: no model is asked"
            )
        else:
            what = (
                "a language model on this machine (SmolLM2-135M-Instruct in llama.cpp), under whatever name it is asked"
            )
            chosen = Chosen(
                answered_by(url, LOCAL_MODEL_NAME, {"default"}), what, chaos_params=dict(CHAOS_LOCAL_PARAMS)
            )
        yield chosen


def _rehearsal(stack: ExitStack, script: str, what: str) -> Chosen:
    url = stack.enter_context(rehearsal_upstream(script))
    return Chosen(answered_by(url, REHEARSAL_NAME, {"default"}), what, rehearsed=True)


def _one_line(said: object) -> str:
    return " ".join(str(said).split())
