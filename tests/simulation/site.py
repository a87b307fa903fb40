"""One simulated server and the network that leads to it, with what can befall the two."""

import asyncio
import random
from collections.abc import Callable

from .loop import Process, SimulatedLoop
from .network import Network, Weather
from .server import Server


class Site:
    """A place that a URL names. A world has one for everything, or one for the logs and one for the queue."""

    def __init__(self, loop: SimulatedLoop, chance: random.Random, weather: Weather, *, name: str, host: str) -> None:
        self.name = name
        self.process = Process(loop, name)
        self.network = Network(loop, chance, self.process, weather, host=host)
        self.server = Server(self.process, self.network)
        self.went_back: Callable[[], None] = _do_nothing
        """Called when it has lost something."""

    def stop(self, lose_s: float | None) -> int:
        """It dies, with what was done in its last seconds; how many steps. None: it forgets nothing."""
        self.network.refuses = True
        self.network.cut_all()
        self.server.restart()
        undone = self.server.go_back(lose_s) if lose_s is not None else 0
        if undone:
            self.went_back()
        return undone

    async def start_after(self, pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        self.network.refuses = False


def _do_nothing() -> None: ...
