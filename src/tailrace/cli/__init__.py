"""The `tailrace` command. The top room: it may import every other one.

Submitting and following load neither openai nor arq: a command imports what it needs when it is called.
"""

from tailrace.cli.app import app, main
from tailrace.cli.exits import ExitCode

__all__ = ["ExitCode", "app", "main"]
