"""Opening connections: to the server itself, to a proxy, or through one; with TLS or without."""

import asyncio
import ssl
from typing import Final, TypeVar

import httpx2
from aiohappyeyeballs import start_connection  # pyright: ignore[reportUnknownVariableType]  # its addresses are bare tuples

from tailrace.worker.push.connection import Connection, Keeper
from tailrace.worker.push.names import Names
from tailrace.worker.push.proxies import Tunnel

#: Before the next address is tried beside the first (RFC 8305, 5).
_NEXT_ADDRESS_S: Final = 0.25
_PORTS: Final = {"http": 80, "https": 443}

_Spoken = TypeVar("_Spoken", bound=asyncio.BaseProtocol)


class Dialer:
    """Opens connections for one transport. Who gets one answers for it."""

    def __init__(self, verify: ssl.SSLContext, proxy: httpx2.Proxy | None, keeper: Keeper) -> None:
        self._verify, self._proxy, self._keeper = verify, proxy, keeper
        self._names = Names()

    async def dial(self, request: httpx2.Request, origin: bytes, within_s: float | None) -> Connection:
        """A connection that can carry the request. A cancellation leaves none behind.

        Raises: httpx2.ConnectTimeout, httpx2.ConnectError (from the OSError, ssl.SSLError among them, that it is),
        httpx2.ProxyError (from the OSError if the proxy cannot be reached), ProxyRefused.
        """
        try:
            async with asyncio.timeout(within_s):
                return await self._dial(request.url, origin)
        except TimeoutError as error:
            raise httpx2.ConnectTimeout("no connection in time", request=request) from error
        except (OSError, UnicodeError, ValueError) as error:
            raise httpx2.ConnectError(str(error) or type(error).__name__, request=request) from error

    async def _dial(self, url: httpx2.URL, origin: bytes) -> Connection:
        connection = Connection(self._keeper, origin)
        proxy = self._proxy
        if proxy is None:
            return await self._reach(url, self._verify, connection)
        if url.scheme == "http":
            return await self._reach_proxy(proxy, connection)
        tunnel = await self._reach_proxy(proxy, Tunnel())
        transport = await tunnel.open(proxy, url.raw_host, _port(url))
        return await _secured(transport, self._verify, _host(url), connection)

    async def _reach_proxy(self, proxy: httpx2.Proxy, spoken: _Spoken) -> _Spoken:
        try:
            return await self._reach(proxy.url, proxy.ssl_context or self._verify, spoken)
        except TimeoutError:
            raise  # also an OSError
        except (OSError, UnicodeError) as error:
            raise httpx2.ProxyError(f"no connection to the proxy: {error}") from error

    async def _reach(self, url: httpx2.URL, tls: ssl.SSLContext, spoken: _Spoken) -> _Spoken:
        """Connect to where the URL points, with TLS if it says so."""
        host, port = _host(url), _port(url)
        try:
            # asyncio's own happy eyeballs are not used: uvloop has none, and a cancellation can leave a socket open.
            addresses = await self._names.addresses(host, port)
            sock = await start_connection(addresses, happy_eyeballs_delay=_NEXT_ADDRESS_S)
        except OSError:
            self._names.forget(host, port)
            raise
        first = _Plain() if url.scheme == "https" else spoken
        try:
            transport, _ = await asyncio.get_running_loop().create_connection(lambda: first, sock=sock)
        except BaseException:
            sock.close()  # the event loop may not have taken it yet
            raise
        # Not by create_connection(ssl=...): cancelled early in the handshake, asyncio lets the connection live on.
        return spoken if first is spoken else await _secured(transport, tls, host, spoken)


class _Plain(asyncio.Protocol):
    """A connection of which TLS takes possession before anything is read."""


async def _secured(transport: asyncio.Transport, tls: ssl.SSLContext, host: str, spoken: _Spoken) -> _Spoken:
    """Speak TLS from here on. The connection is closed unless that succeeds."""
    tls.set_alpn_protocols(["http/1.1"])
    try:
        if transport.is_closing():
            raise ConnectionResetError("the connection was closed before the TLS handshake")
        secured = await asyncio.get_running_loop().start_tls(transport, spoken, tls, server_hostname=host)
        if secured is None:
            raise ConnectionResetError("the connection was closed during the TLS handshake")
    except BaseException:
        transport.abort()
        raise
    spoken.connection_made(secured)
    return spoken


def _host(url: httpx2.URL) -> str:
    return url.raw_host.decode("ascii")


def _port(url: httpx2.URL) -> int:
    return url.port or _PORTS[url.scheme]
