"""The transport under the openai package: aiohttp, whose bodies can be read without the layers between.

aiohttp opens connections, speaks TLS and to proxies, keeps connections for the next request and parses HTTP in C. The
package's own aiohttp transport is not used because it hides the body: an event read through httpx's iterators costs
15 us more.
"""

import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from typing import Any, Final

import aiohttp
import httpx2

#: Where a response's aiohttp twin is found.
_EXTENSION: Final = "aiohttp_response"
#: Connections that wait for the next request are closed after this time: most servers do so after some more.
_KEEP_ALIVE_S: Final = 15.0
_READ_BYTES: Final = 64 * 1024


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """Sends requests of httpx by aiohttp. No limit on connections: a worker's capacity is the limit."""

    def __init__(self, verify: ssl.SSLContext, proxy: httpx2.Proxy | None = None) -> None:
        self._verify, self._proxy = verify, proxy
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Raises: httpx2.TransportError, from aiohttp's own."""
        timeout = request.extensions.get("timeout", {})
        with _in_httpx_words(request):
            response = await self._open_session().request(
                request.method,
                str(request.url),
                headers=request.headers.multi_items(),
                data=await request.aread() or None,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=None, connect=timeout.get("pool"), sock_connect=timeout.get("connect"), sock_read=None
                ),
                proxy=None if self._proxy is None else str(self._proxy.url),
                proxy_headers=None if self._proxy is None else _proxy_headers(self._proxy),
            )
        return httpx2.Response(
            response.status,
            headers=list(response.raw_headers),
            stream=_Body(response, request),
            request=request,
            extensions={"http_version": b"HTTP/1.1", _EXTENSION: response},
        )

    async def aclose(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S, ssl=self._verify)
            self._session = aiohttp.ClientSession(
                connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._session


class _Body(httpx2.AsyncByteStream):
    def __init__(self, response: aiohttp.ClientResponse, request: httpx2.Request) -> None:
        self._response, self._request = response, request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _in_httpx_words(self._request):
            async for piece in self._response.content.iter_chunked(_READ_BYTES):
                yield piece

    async def aclose(self) -> None:
        # Lets go of the connection before anything suspends: a cancellation leaves nothing open.
        self._response.release()


def content_of(response: httpx2.Response) -> aiohttp.StreamReader | None:
    """The body as aiohttp parses it; None if it is compressed, or not of this transport.

    Raises from its calls: aiohttp.ClientError, OSError.
    """
    twin: Any = response.extensions.get(_EXTENSION)
    if (
        not isinstance(twin, aiohttp.ClientResponse)
        or response.headers.get("content-encoding", "identity") != "identity"
    ):
        return None
    return twin.content


def _proxy_headers(proxy: httpx2.Proxy) -> dict[str, str]:
    """With who we are, as a header, which aiohttp hands on as Proxy-Authorization: its own way for these is deprecated."""
    headers = dict(proxy.headers)
    if proxy.auth is not None:
        headers["Authorization"] = f"Basic {b64encode(':'.join(proxy.auth).encode()).decode()}"
    return headers


@contextmanager
def _in_httpx_words(request: httpx2.Request) -> Generator[None]:
    """The openai package tells timeouts from other failures; what exactly happened stays in the cause."""
    try:
        yield
    except (TimeoutError, aiohttp.ServerTimeoutError) as error:
        raise httpx2.ConnectTimeout(str(error), request=request) from error
    except aiohttp.InvalidURL as error:
        raise httpx2.UnsupportedProtocol(str(error), request=request) from error
    except aiohttp.ClientConnectorError as error:
        raise httpx2.ConnectError(str(error), request=request) from error
    except (aiohttp.ClientError, OSError) as error:
        raise httpx2.ReadError(str(error), request=request) from error
