"""httpx's face of the push-mode transport."""

import ssl
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

import httpx2

from tailrace.worker.push.body import Body, PushBody
from tailrace.worker.push.connection import Connection
from tailrace.worker.push.dialing import Dialer
from tailrace.worker.push.heads import request_head
from tailrace.worker.push.pool import Pool
from tailrace.worker.push.proxies import proxy_headers

#: Where a response's `PushBody` is found.
_EXTENSION: Final = "tailrace_body"
_SCHEMES: Final = frozenset({"http", "https"})


class PushTransport(httpx2.AsyncBaseTransport):
    """HTTP/1.1 for httpx, with or without an HTTP proxy; each response carries its body as a `PushBody` (`body_of`).

    Of httpx's timeouts only `connect` is kept, TLS and the proxy's answer included; the others are their callers'. No
    limit on connections. Idle ones wait 15 s for the next request to the same origin.
    """

    def __init__(self, verify: ssl.SSLContext, proxy: httpx2.Proxy | None = None) -> None:
        self._proxy = proxy
        self._pool = Pool()
        self._dialer = Dialer(verify, proxy, self._pool)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send the request, whole; wait for the response's head.

        A server may have closed an idle connection in the moment it was chosen: that is a ReadError like any other.

        Raises: httpx2.ConnectTimeout, httpx2.ConnectError, httpx2.ProxyError (ProxyRefused if the proxy did answer),
        httpx2.ReadError, httpx2.RemoteProtocolError, httpx2.LocalProtocolError for a request that cannot be sent,
        httpx2.UnsupportedProtocol for URLs and proxies of other schemes.
        """
        url, proxy = request.url, self._proxy
        if url.scheme not in _SCHEMES or not url.host:
            raise httpx2.UnsupportedProtocol(f"not an http:// or https:// URL: {url.scheme!r}", request=request)
        if proxy is not None and proxy.url.scheme not in _SCHEMES:
            raise httpx2.UnsupportedProtocol(f"no proxies of the scheme {proxy.url.scheme!r}", request=request)
        content = await request.aread()
        origin = b"%s://%s" % (url.raw_scheme, url.netloc)
        if proxy is not None and url.scheme == "http":
            head = request_head(request, origin + url.raw_path, len(content), proxy_headers(proxy))
        else:
            head = request_head(request, url.raw_path, len(content))
        connection = self._pool.take(origin) or await self._open(request, origin)
        answer = await connection.exchange(request, head, content)
        return httpx2.Response(
            answer.status,
            headers=answer.headers,
            stream=_Stream(answer.body),
            request=request,
            extensions={
                "http_version": f"HTTP/{answer.version}".encode(),
                "reason_phrase": answer.reason,
                _EXTENSION: answer.body,
            },
        )

    async def aclose(self) -> None:
        """Close all connections, those in use as well."""
        await self._pool.aclose()

    async def _open(self, request: httpx2.Request, origin: bytes) -> Connection:
        closings = self._pool.closings
        connection = await self._dialer.dial(request, origin, _connect_timeout_s(request))
        if closings != self._pool.closings:
            connection.abort()
            raise httpx2.ReadError("the transport was closed", request=request)
        self._pool.add(connection)
        return connection


def body_of(response: httpx2.Response) -> PushBody | None:
    """The response's body, to be listened to; None if it is compressed, or of another transport."""
    body: Any = response.extensions.get(_EXTENSION)
    if not isinstance(body, Body) or response.headers.get("content-encoding", "identity") != "identity":
        return None
    return body


class _Stream(httpx2.AsyncByteStream):
    def __init__(self, body: Body) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        async with aclosing(self._body.pull()) as pieces:
            async for piece in pieces:
                yield piece

    async def aclose(self) -> None:
        # Before anything suspends: a cancellation leaves nothing open.
        self._body.close()


def _connect_timeout_s(request: httpx2.Request) -> float | None:
    timeouts: dict[str, Any] = request.extensions.get("timeout", {})
    limit: float | None = timeouts.get("connect")
    return limit
