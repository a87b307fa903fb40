"""HTTP proxies: who we are to them, and tunnels through them (RFC 9110, 9.3.6)."""

import asyncio
from base64 import b64encode
from typing import Final, cast

import httpx2
from httptools import HttpParserError, HttpResponseParser

from tailrace.worker.push.heads import authority, head_of

_HEAD_BYTES: Final = 64 * 1024


class ProxyRefused(httpx2.ProxyError):
    """A proxy answered, but not with a tunnel."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the proxy answered {status}")
        self.status = status


def proxy_headers(proxy: httpx2.Proxy) -> list[tuple[bytes, bytes]]:
    """What a proxy is to be told with each request that it reads."""
    headers = list(proxy.headers.raw)
    if proxy.raw_auth is not None:
        headers.append((b"Proxy-Authorization", b"Basic " + b64encode(b":".join(proxy.raw_auth))))
    return headers


class Tunnel(asyncio.Protocol):
    """A connection to a proxy that is asked for a tunnel."""

    def __init__(self) -> None:
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None
        self._head = bytearray()

    async def open(self, proxy: httpx2.Proxy, host: bytes, port: int) -> asyncio.Transport:
        """What leads to the host, from here on. The connection is closed unless that succeeds.

        Raises: httpx2.ProxyError, ValueError for a header that cannot be one.
        """
        transport = self._transport
        if transport is None:
            raise httpx2.ProxyError("the proxy closed the connection before it was asked")
        try:
            target = authority(host, port)
            transport.write(head_of(b"CONNECT", target, [(b"Host", target), *proxy_headers(proxy)]))
            await self._opened
        except BaseException:
            transport.abort()
            raise
        return transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._head += data
        head, end, more = self._head.partition(b"\r\n\r\n")
        if not end:
            if len(head) > _HEAD_BYTES:
                self._fail(httpx2.ProxyError("the proxy answered with too large a head"))
            return
        try:
            parser = HttpResponseParser(self)
            parser.feed_data(head + end)
        except HttpParserError as error:
            self._fail(httpx2.ProxyError("the proxy did not answer in HTTP"), error)
            return
        if not 200 <= parser.get_status_code() < 300:
            self._fail(ProxyRefused(parser.get_status_code()))
        elif more:
            self._fail(httpx2.ProxyError("the proxy says more than it was asked"))
        elif self._transport is not None and not self._opened.done():
            self._transport.pause_reading()  # what comes next is for TLS
            self._opened.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(httpx2.ProxyError("the proxy closed the connection before it answered"), exc)

    def _fail(self, error: httpx2.ProxyError, cause: Exception | None = None) -> None:
        if not self._opened.done():
            error.__cause__ = cause
            self._opened.set_exception(error)
