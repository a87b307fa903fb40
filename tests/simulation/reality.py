"""The same commands to a real server and to its stand-ins: connections to each, and what an error answer is."""

import random
from collections.abc import Callable, Sequence
from typing import Any, Final

from hypothesis import HealthCheck
from redis.exceptions import ResponseError

from .loop import Process, simulated_loop
from .scripting import ServerError
from .server import Server

UNCHECKED: Final = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
OPENED: Final[list[Any]] = []
"""Connections, for the fixture that closes them."""

Send = Callable[[Sequence[bytes | str | int]], Any]


class Failed(str):
    """An error answer, as its text."""

    __slots__ = ()


def encoded(command: Sequence[bytes | str | int]) -> list[bytes]:
    return [part if isinstance(part, bytes) else str(part).encode() for part in command]


def raw(client: Any) -> Send:
    """Commands over one connection, answers as the server gives them."""
    connection = client.connection_pool.make_connection()
    OPENED.append(connection)

    def send(command: Sequence[bytes | str | int]) -> Any:
        connection.send_command(*command)
        try:
            return connection.read_response()
        except ResponseError as error:
            return Failed(str(error))

    return send


def simulated() -> Send:
    server = Server(Process(simulated_loop(random.Random(0)), "server"))

    def send(command: Sequence[bytes | str | int]) -> Any:
        server.tick()
        try:
            return server.step(encoded(command))
        except ServerError as error:
            # As redis-py's parser has it: the code names the class.
            code, _, text = str(error).partition(" ")
            return Failed(text if code in ("ERR", "NOSCRIPT") else str(error))

    return send
