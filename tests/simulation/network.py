"""A simulated network between client processes and the server: bytes in order per connection and direction, late by
chance; between connections anything may overtake anything. Connections are cut, replies are lost, ends go silent."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from .loop import Process, SimulatedLoop


class Peer(Protocol):
    """The server's end of a connection."""

    def received(self, piece: bytes) -> None: ...
    def closed(self) -> None: ...


@dataclass
class Weather:
    """How bad the network is. Chances are per message."""

    latency_s: tuple[float, float] = (0.0001, 0.003)
    spike: float = 0.0
    """A message that is late by `spike_s`."""
    spike_s: tuple[float, float] = (0.05, 2.0)
    lost_before: float = 0.0
    """The connection breaks, and the message never arrives."""
    lost_after: float = 0.0
    """The message arrives, the connection breaks, and its answer never does."""
    cut_answer: float = 0.0
    """The connection breaks in the middle of an answer."""
    silent: float = 0.0
    """The connection goes dead without a word."""
    counts: dict[str, int] = field(default_factory=dict[str, int])

    def calm(self) -> None:
        self.spike = self.lost_before = self.lost_after = self.cut_answer = self.silent = 0.0


class Network:
    """Every connection to one server, which `host` names."""

    def __init__(
        self, loop: SimulatedLoop, chance: random.Random, server: Process, weather: Weather, *, host: str
    ) -> None:
        self.loop, self.chance, self.server, self.weather = loop, chance, server, weather
        self.accept: Callable[[Link], Peer] | None = None
        self.refuses = False
        self.links: list[Link] = []
        self.cut_off: set[str] = set()
        """Names of processes that reach nobody."""
        loop.hosts[host] = self.connect

    async def connect(self, process: Process, protocol: asyncio.BaseProtocol) -> asyncio.Transport:
        await asyncio.sleep(self.latency())
        if self.refuses or process.name in self.cut_off:
            raise ConnectionRefusedError("the simulated server refuses")
        assert self.accept is not None
        link = Link(self, process, protocol)
        link.peer = self.accept(link)
        self.links.append(link)
        protocol.connection_made(link)
        return link

    def latency(self) -> float:
        weather, chance = self.weather, self.chance
        low, high = weather.latency_s
        latency = low + (high - low) * chance.random()
        if weather.spike and chance.random() < weather.spike:
            latency += chance.uniform(*weather.spike_s)
        return latency

    def happens(self, what: str, probability: float) -> bool:
        if probability and self.chance.random() < probability:
            self.weather.counts[what] = self.weather.counts.get(what, 0) + 1
            return True
        return False

    def cut_all(self, process: Process | None = None) -> None:
        for link in list(self.links):
            if process is None or link.process is process:
                link.cut()


class Link(asyncio.Transport):
    """One connection; the client's transport."""

    def __init__(self, network: Network, process: Process, protocol: asyncio.BaseProtocol) -> None:
        super().__init__()
        self.network, self.process = network, process
        self.peer: Peer | None = None
        self._protocol: Any = protocol
        self._closing = False
        self._silent = False
        self._arrives_there = self._arrives_here = 0.0
        """When the last message of each direction arrives: none overtakes it."""

    # The client's side.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        network = self.network
        if self._closing or self._silent:
            return
        weather = network.weather
        if network.happens("silent", weather.silent):
            self._silent = True
            return
        if network.happens("lost_before", weather.lost_before):
            self.cut()
            return
        self._arrives_there = max(self._arrives_there, network.loop.now + network.latency())
        network.server.at(self._arrives_there, self._there, bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._forget()
            self._arrives_there = max(self._arrives_there, self.network.loop.now + self.network.latency())
            self.network.server.at(self._arrives_there, self._closed_there)
            self.process.later(0, self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self._closing

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ARG002  # there is no socket
        return default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol  # type: ignore[no-any-return]  # a protocol

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """There is room for everything here."""

    def resume_reading(self) -> None: ...

    # The server's side.

    def answer(self, piece: bytes) -> None:
        network = self.network
        if self._closing or self._silent:
            return
        if network.happens("cut_answer", network.weather.cut_answer):
            piece = piece[: network.chance.randrange(len(piece))]
            self._deliver(piece)
            self.cut()
            return
        self._deliver(piece)

    def cut(self) -> None:
        """Both ends learn that the connection broke; the client a little later, after what has been on its way."""
        if self._closing:
            return
        self._closing = True
        self._forget()
        self.network.server.later(0, self._closed_there)
        self._arrives_here = max(self._arrives_here, self.network.loop.now + self.network.latency())
        self.process.at(self._arrives_here, self._protocol.connection_lost, ConnectionResetError("cut"))

    def _deliver(self, piece: bytes) -> None:
        self._arrives_here = max(self._arrives_here, self.network.loop.now + self.network.latency())
        self.process.at(self._arrives_here, self._here, piece)

    def _there(self, piece: bytes) -> None:
        assert self.peer is not None
        network = self.network
        if network.happens("lost_after", network.weather.lost_after):
            was, self._silent = self._silent, True
            self.peer.received(piece)
            self._silent = was
            self.cut()
        else:
            self.peer.received(piece)

    def _here(self, piece: bytes) -> None:
        self._protocol.data_received(piece)

    def _closed_there(self) -> None:
        assert self.peer is not None
        self.peer.closed()

    def _forget(self) -> None:
        if self in self.network.links:
            self.network.links.remove(self)
