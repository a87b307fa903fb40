"""`tailrace demo`: its options, its upstream, and what it shows at the end."""

import asyncio
import logging
import os
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console

from tailrace.cli.demo.report import figure_lines, tree_lines
from tailrace.cli.exits import ExitCode, MissingExtra, exit_code
from tailrace.cli.options import Json
from tailrace.cli.output import Output, printable, reporting
from tailrace.cli.standins import answered_by, local_model_upstream, missing_worker_extra, rehearsal_upstream
from tailrace.schemas import InvalidRequest, Settings, TailraceError, UpstreamSettings

if TYPE_CHECKING:
    from tailrace.cli.demo.stage import Performance

PROMPT: Final = "Write me a 1 verse song about sparkling water."
#: So that one sees it stream.
_REHEARSAL_SCRIPT: Final = "pace=0.03,ttft=0.2"
#: Nobody waits longer for a demo.
_DEADLINE_S: Final = 180.0
_INTERRUPTED: Final = "interrupted; everything that the demo started is stopped"


@dataclass(frozen=True, slots=True)
class Chosen:
    """The upstream of the demo, and how it is called."""

    upstreams: dict[str, UpstreamSettings]
    what: str


def demo(
    prompt: Annotated[str, typer.Argument(help="What to ask.")] = PROMPT,
    *,
    model: Annotated[str, typer.Option("--model", "-m")] = "gpt-3.5-turbo-instruct",
    temperature: Annotated[float, typer.Option()] = 0,
    max_tokens: Annotated[int, typer.Option(min=1)] = 512,
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
            from tailrace.cli.demo.stage import perform  # loads arq and openai
        except ImportError as error:
            raise missing_worker_extra(error) from error
        from tailrace.cli.demo.screen import LiveScreen, PlainScreen
        from tailrace.joblog.embedded import EmbeddedServer

        logging.getLogger("tailrace").addHandler(logging.NullHandler())
        request: dict[str, Any] = {
            "prompt": prompt,
            "model": model,
            "temperature": temperature,
            "max_tokens": max_tokens,
            "deadline": _DEADLINE_S,
        }
        console = Console(highlight=False)
        live = output.on_terminal and not output.json
        screen = LiveScreen(console) if live else PlainScreen(output if not output.json else _Noted(json=True))
        with ExitStack() as stack:
            _tell(output, "server", "a private one for this demo (your own Redis is not touched)")
            server = stack.enter_context(EmbeddedServer(private=True))
            chosen = stack.enter_context(upstream_of(output, rehearsal=rehearsal, local_model=local_model))
            _tell(output, "upstream", chosen.what)
            _tell(output, "prompt", f"{prompt}  ({model}, temperature {temperature:g}, max_tokens {max_tokens})")
            settings = Settings.load(redis_url=server.url, namespace="demo", upstreams=chosen.upstreams)
            performance = asyncio.run(perform(settings, request, screen))
        _show(output, performance, chosen)
        if performance.ended is not None:
            output.error(performance.ended)
            raise typer.Exit(exit_code(performance.ended))
        if not performance.figures.same_text:
            output.note("error: the readers did not get the same text")
            raise typer.Exit(ExitCode.FAILED)


class _Noted(Output):
    """Lines that go to standard error, because standard output has JSON only."""

    def line(self, text: str) -> None:
        self.note(text)


def _tell(output: Output, name: str, text: str) -> None:
    line = f"{name:<9} {text}"
    output.note(line) if output.json else output.line(line)


@contextmanager
def upstream_of(output: Output, *, rehearsal: bool, local_model: bool) -> Generator[Chosen]:
    """The key's upstream, else the local model, else the rehearsal. Says why when it is not what one would hope for."""
    with ExitStack() as stack:
        if rehearsal:
            yield _rehearsal(stack, "the rehearsal, a scripted server on this machine: no model is asked")
            return
        key, base_url = os.environ.get("OPENAI_API_KEY"), os.environ.get("OPENAI_BASE_URL")
        if (key or base_url) and not local_model:
            from tailrace.worker.upstream_http import origin

            where = origin(base_url) if base_url else "OpenAI"
            named = " and ".join(name for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL") if os.environ.get(name))
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
            chosen = _rehearsal(stack, "instead the rehearsal, a scripted server on this machine: no model is asked")
        else:
            what = (
                "a language model on this machine (SmolLM2-135M-Instruct in llama.cpp), under whatever name it is asked"
            )
            chosen = Chosen(answered_by(url, {"default"}), what)
        yield chosen


def _rehearsal(stack: ExitStack, what: str) -> Chosen:
    url = stack.enter_context(rehearsal_upstream(_REHEARSAL_SCRIPT))
    return Chosen(answered_by(url, {"default"}), what)


def _one_line(error: TailraceError) -> str:
    return " ".join(str(error).split())


def _show(output: Output, performance: "Performance", chosen: Chosen) -> None:
    if output.json:
        readers = [
            {
                "name": reader.name,
                "state": reader.state,
                "chunks": len(reader.pieces),
                "connections": reader.connections,
                "same_text": reader.text == performance.text,
            }
            for reader in performance.readers
        ]
        output.object(
            {
                "job_id": performance.job_id,
                "upstream": chosen.what,
                "text": performance.text,
                "readers": readers,
                "figures": asdict(performance.figures),
            }
        )
        return
    output.line("\nThe events of the job")
    ascii_only = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") != "utf8"
    lines = tree_lines(performance.tree, ascii_only=ascii_only)
    width = max(len(text) for text, _ in lines)
    for text, times in lines:
        output.line(f"  {printable(text):<{width}}  {times}".rstrip())
    output.line("\nFigures")
    for name, value in figure_lines(performance.figures):
        output.line(f"  {name:<26} {value}")
