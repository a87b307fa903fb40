"""The addresses behind names, asked once for many connections."""

import asyncio
import socket
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

#: Family, type, protocol, canonical name, and the socket's address.
Address: TypeAlias = tuple[int, int, int, str, tuple[Any, ...]]

#: A thousand streams that open at once ask once; a name that moves is noticed soon.
_TRUST_S: Final = 10.0


class Names:
    """Name look-ups, remembered for a while."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], tuple[float, Sequence[Address]]] = {}
        self._asking: dict[tuple[str, int], asyncio.Lock] = {}

    async def addresses(self, host: str, port: int) -> Sequence[Address]:
        """Raises: OSError, UnicodeError for what cannot be a name."""
        try:
            # An address needs no look-up, and no thread.
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except socket.gaierror:
            pass
        name, loop = (host, port), asyncio.get_running_loop()
        async with self._asking.setdefault(name, asyncio.Lock()):
            until, addresses = self._known.get(name, (0.0, []))
            if until <= loop.time():
                addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                self._known[name] = (loop.time() + _TRUST_S, addresses)
        return addresses

    def forget(self, host: str, port: int) -> None:
        """Nobody was there: the name may have moved."""
        self._known.pop((host, port), None)
