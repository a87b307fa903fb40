"""`tailrace top`: workers, queue and streams, live on a terminal."""

import asyncio
import os
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.live import Live

from tailrace import AsyncTailrace
from tailrace.cli.options import Config, Json, Namespace, RedisUrl, settings_of
from tailrace.cli.output import Output, reporting
from tailrace.cli.standins import missing_worker_extra
from tailrace.schemas import BrokerUnavailable, Settings

_QUIT: Final = b"qQ"
_UP: Final = (b"\x1b[A", b"\x1bOA", b"k")
_DOWN: Final = (b"\x1b[B", b"\x1bOB", b"j")
#: What a frame has where nobody looks at a terminal.
_HEIGHT: Final = 60
_WIDTH: Final = 120


def top(
    *,
    interval: Annotated[float, typer.Option("--interval", "-i", min=0.1, help="Seconds between two looks.")] = 1.0,
    once: Annotated[
        bool, typer.Option("--once", help="Show one look and end, as where output is no terminal.")
    ] = False,
    json: Json = False,
    redis_url: RedisUrl = None,
    namespace: Namespace = None,
    config: Config = None,
) -> None:
    """Workers, queue, streams and what ended last, live. Where nobody looks (output is no terminal) and with --json: one
    look."""
    output = Output(json=json)
    with reporting(output):
        settings = settings_of(redis_url, namespace, config)
        try:
            from tailrace.cli import fleet  # loads the worker's packages
        except ImportError as error:
            raise missing_worker_extra(error) from error

        live = not (output.json or once) and output.on_terminal and sys.stdin.isatty()
        if live and not Console(file=sys.stdout).is_dumb_terminal:
            asyncio.run(_watch(settings, interval))
            return

        async def looked() -> fleet.Fleet:
            async with AsyncTailrace(settings=settings) as tailrace:
                return await fleet.look_around(tailrace.broker, tailrace.settings.keys)

        found = asyncio.run(looked())
        if output.json:
            output.object(found.as_json())
            return
        from tailrace.cli.top_screen import Frame, Watch

        watch = Watch()
        watch.saw(found)
        width = None if output.on_terminal else _WIDTH
        console = Console(file=sys.stdout, highlight=False, width=width)
        console.print(Frame(found, watch, settings.namespace, note=" ").lines(_HEIGHT))


class _Keys:
    """What somebody has pressed."""

    def __init__(self) -> None:
        self.quit = self.paused = False
        self.scrolled = 0
        self.pressed = asyncio.Event()

    @property
    def idle(self) -> bool:
        """Whether nobody wants another look."""
        return self.paused or self.quit

    def take(self, typed: bytes) -> None:
        self.scrolled = max(0, self.scrolled + sum(map(typed.count, _DOWN)) - sum(map(typed.count, _UP)))
        self.paused ^= bool(typed.count(b" ") % 2)
        # The terminal is gone, if it has nothing to say.
        self.quit = self.quit or not typed or any(byte in _QUIT for byte in typed)
        self.pressed.set()


async def _watch(settings: Settings, interval_s: float) -> None:
    from tailrace.cli.fleet import look_around
    from tailrace.cli.top_screen import Frame, Watch

    async with AsyncTailrace(settings=settings) as tailrace:
        keys, broker = tailrace.settings.keys, tailrace.broker
        fleet = await look_around(broker, keys)  # without a server there is nothing to show
        watch, pressed, note = Watch(), _Keys(), ""
        watch.saw(fleet)
        console = Console(file=sys.stdout, highlight=False)
        loop = asyncio.get_running_loop()
        with (
            _listening(pressed),
            Live(
                console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
            ) as live,
        ):
            due = loop.time() + interval_s
            while not pressed.quit:
                pressed.scrolled = min(pressed.scrolled, max(0, len(fleet.running) - 1))
                frame = Frame(fleet, watch, settings.namespace, pressed.scrolled, _shown(note, pressed))
                live.update(frame.lines(console.height), refresh=True)
                pressed.pressed.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(None if pressed.paused else due):
                        await pressed.pressed.wait()
                if pressed.idle or loop.time() < due:
                    continue
                try:
                    fleet = await look_around(broker, keys)
                    watch.saw(fleet)
                    note = ""
                except BrokerUnavailable as error:
                    note = f"the server does not answer: {error}"
                due = loop.time() + interval_s


def _shown(note: str, pressed: _Keys) -> str:
    return note or ("paused: space goes on" if pressed.paused else "")


@contextmanager
def _listening(keys: _Keys) -> Generator[None]:
    """Take keys one by one, and be told when the terminal's size changes; the terminal is left as it was."""
    import termios  # POSIX
    import tty

    loop, descriptor = asyncio.get_running_loop(), sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        loop.add_reader(descriptor, lambda: keys.take(_typed(descriptor)))
        loop.add_signal_handler(signal.SIGWINCH, keys.pressed.set)
        yield
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _typed(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 64)
    except OSError:
        return b""
