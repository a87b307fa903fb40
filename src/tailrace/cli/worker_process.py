"""A worker as a child of the supervisor: settings come in on standard input, which closes when the supervisor dies.

So nothing secret stands in a command line, and no worker outlives a supervisor that was killed: it drains.
"""

import asyncio
import os
import sys
from typing import Final

from tailrace.cli.applications import load_app
from tailrace.cli.exits import exit_code
from tailrace.cli.serving import Serving, logger, observed, run_loop
from tailrace.schemas import Settings, TailraceError
from tailrace.tasks import App

_LARGEST_SETTINGS: Final = 4 * 1024 * 1024


def ready_line(name: str) -> bytes:
    """What the child says on standard output once it takes jobs."""
    return f"ready {name}\n".encode()


async def _serve(settings: Settings, app: App | None) -> None:
    loop = asyncio.get_running_loop()
    serving = Serving(settings, app)

    def supervisor_gone() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            serving.stop()

    loop.add_reader(0, supervisor_gone)
    try:
        await serving.run(lambda name: _say(ready_line(name)))
    finally:
        loop.remove_reader(0)


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def main() -> None:
    # Unbuffered: what a buffer had read ahead could not be seen to be closed.
    settings = bytearray()
    while not settings.endswith(b"\n") and len(settings) < _LARGEST_SETTINGS:
        piece = os.read(0, 65536)
        if not piece:
            return
        settings += piece
    try:
        chosen = Settings.model_validate_json(bytes(settings))
        with observed(chosen, "tailrace-worker"):
            app = load_app(sys.argv[1]) if len(sys.argv) > 1 else None
            run_loop(_serve(chosen, app))
    except TailraceError as error:
        logger.error("%s", error)
        sys.exit(exit_code(error))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
