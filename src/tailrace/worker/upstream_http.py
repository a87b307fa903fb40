"""The HTTP side of an upstream: one client of the openai package, and what its exceptions mean.

The openai package does auth, retries and proxies. Three of its habits are changed here: redirects are not followed (a
key must not travel to another host), the wait for the response's head is bounded for each try, and error bodies are
read in a bounded way.
"""

import asyncio
import os
import ssl
from collections.abc import Iterator
from functools import cache
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import httpx2
from openai import APIConnectionError, APIStatusError, APITimeoutError, AsyncOpenAI, Timeout
from pydantic_core import from_json

from tailrace.schemas import InvalidRequest, UpstreamSettings
from tailrace.schemas.secrets import secret_of
from tailrace.worker.push import ProxyRefused, PushTransport
from tailrace.worker.sources.errors import Phase, UpstreamError, describe, status_retryable
from tailrace.worker.upstream_transport import AiohttpTransport

#: What the openai package sends when a service needs no key (it refuses to send none).
NO_KEY: Final = "none"
#: Makes the openai package hand over the response before its body is read (its `with_streaming_response`).
STREAMED: Final = {"X-Stainless-Raw-Response": "stream"}

_ERROR_BODY_LIMIT: Final = 64 * 1024
_KEPT_HEADERS: Final = ("content-type", "retry-after", "retry-after-ms", "x-should-retry", "x-request-id")
_SCHEMES: Final = frozenset({"http", "https"})


class _HttpClient(httpx2.AsyncClient):
    """httpx, which is what the openai package asks, over a transport of ours, also where the environment names proxies."""

    head_timeout_s: float = 120.0
    transport: type[AiohttpTransport] | type[PushTransport] = AiohttpTransport

    def _init_transport(self, *_: Any, **options: Any) -> httpx2.AsyncBaseTransport:
        return self.transport(options["verify"])

    def _init_proxy_transport(self, proxy: httpx2.Proxy, *_: Any, **options: Any) -> httpx2.AsyncBaseTransport:
        return self.transport(options["verify"], proxy)

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Raises: httpx2.ReadTimeout if the head of the response, or the body of an error, does not come in time."""
        try:
            async with asyncio.timeout(self.head_timeout_s):
                response = await super().send(request, **options)
                return response if response.is_success else await _bounded(response)
        except TimeoutError as error:
            raise httpx2.ReadTimeout("no response in time", request=request) from error


class _PushingHttpClient(_HttpClient):
    transport = PushTransport


async def _bounded(response: httpx2.Response) -> httpx2.Response:
    """An error response whose body is read, as far as it is worth reading."""
    body = await read_some(response)
    headers = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
    return httpx2.Response(response.status_code, headers=headers, content=body, request=response.request)


async def read_some(response: httpx2.Response, limit: int = _ERROR_BODY_LIMIT) -> bytes:
    """The beginning of a body; the response is closed after it. A body that breaks off gives what came."""
    body = bytearray()
    try:
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) >= limit:
                break
    except (httpx2.HTTPError, aiohttp.ClientError):
        pass
    finally:
        await response.aclose()
    return bytes(body[:limit])


def build_client(name: str, settings: UpstreamSettings) -> tuple[AsyncOpenAI, str]:
    """A client for one upstream, and the key that it sends ("" if none). Raises: UpstreamError."""
    secret = _key(name, settings)
    _check_url(name, "base_url", settings.base_url)
    _check_url(name, "proxy", settings.proxy)
    # No read timeout in aiohttp: it would hold for head and body alike, and cost a timer for each read.
    timeout = Timeout(None, connect=settings.connect_timeout_s)
    client_class = _PushingHttpClient if settings.transport == "push" else _HttpClient
    http_client = client_class(timeout=timeout, follow_redirects=False, proxy=settings.proxy, verify=_trust())
    http_client.head_timeout_s = settings.connect_timeout_s + settings.first_byte_timeout_s
    client = AsyncOpenAI(
        api_key=secret or NO_KEY,
        base_url=settings.base_url,
        timeout=timeout,
        http_client=http_client,
    )
    return client, secret


@cache
def _trust() -> ssl.SSLContext:
    """Whom to trust, read once: each reading of the machine's certificates stops the event loop for some 20 ms."""
    return httpx2.create_ssl_context()


def _key(name: str, settings: UpstreamSettings) -> str:
    if not settings.api_key_env:
        return ""
    try:
        key = secret_of(settings.api_key_env)
    except InvalidRequest as error:
        raise UpstreamError("no_api_key", f"upstream {name!r} needs an API key: {error}", phase="request") from error
    if not key:
        raise UpstreamError(
            "no_api_key",
            f"upstream {name!r} needs an API key: set {settings.api_key_env} in the worker's environment "
            '(or api_key_env = "" in its configuration if it needs none)',
            phase="request",
        )
    if not (key.isascii() and key.isprintable()):
        raise UpstreamError(
            "no_api_key",
            f"the API key in {settings.api_key_env} has characters that no HTTP header can carry: set it again",
            phase="request",
        )
    return key


def _check_url(name: str, field: str, url: str | None) -> None:
    if url is None:
        return
    parts = None
    try:
        parts = urlsplit(url)
        fits = parts.scheme in _SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if parts is None or not fits:
        raise UpstreamError(
            "upstream_unreachable",
            f"upstream {name!r} has a {field} that is no http:// or https:// URL: correct its configuration",
            phase="request",
        )
    if field == "base_url" and "@" in parts.netloc:
        raise UpstreamError(
            "upstream_unreachable",
            f"upstream {name!r} has a user or password in its base_url: a key belongs into the variable that "
            "api_key_env names",
            phase="request",
        )


def origin(url: str) -> str:
    """Where a URL points to, without what may be secret in it."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{port}"


def retries_of(response_or_error: httpx2.Response | Exception) -> int:
    """How many retries the openai package took for this answer or failure: it counts them in the request's headers."""
    request: httpx2.Request | None = getattr(response_or_error, "request", None)
    count = request.headers.get("x-stainless-retry-count", "0") if request is not None else "0"
    return int(count) if count.isdecimal() else 0


def request_error(error: Exception, *, name: str, where: str, settings: UpstreamSettings, secret: str) -> UpstreamError:
    """What it means that a request failed before its response began."""
    if isinstance(error, APIStatusError):
        return _status_error(error, name=name, settings=settings, secret=secret)
    retries = retries_of(error)
    cause = _innermost(error)
    at = f"upstream {name!r} at {where}"
    if isinstance(cause, httpx2.ReadTimeout) or (isinstance(error, APITimeoutError) and cause is error):
        return UpstreamError(
            "upstream_timeout",
            f"{at} did not begin to answer within {settings.first_byte_timeout_s:g} s "
            "(first_byte_timeout_s sets how long it may think)",
            phase="request",
            retryable=True,
            retries_taken=retries,
        )
    if isinstance(cause, httpx2.ConnectTimeout | aiohttp.ServerTimeoutError | TimeoutError):
        return _unreachable(f"{at} did not accept a connection within {settings.connect_timeout_s:g} s", retries)
    if isinstance(cause, aiohttp.ClientProxyConnectionError) or type(cause) is httpx2.ProxyError:
        return _unreachable(f"the proxy of {at} cannot be reached: is it running, is proxy right?", retries)
    if isinstance(cause, aiohttp.ClientHttpProxyError | ProxyRefused):
        return _unreachable(f"the proxy of {at} answered {cause.status}", retries)
    failure = cause.__cause__ if isinstance(cause, httpx2.ConnectError) else None
    if isinstance(cause, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError) or isinstance(
        failure, ssl.SSLError
    ):
        return _unreachable(f"{at} has no certificate that this machine trusts", retries, retryable=False)
    if isinstance(cause, aiohttp.ClientConnectorError):
        failure = cause.os_error
    if isinstance(failure, Exception):
        return _unreachable(f"{at} cannot be reached ({_reason(failure)}): is it running, is base_url right?", retries)
    told = "closed the connection before it answered" if _is_disconnect(cause) else "did not answer in HTTP"
    return UpstreamError("upstream_broken", f"{at} {told}", phase="request", retryable=True, retries_taken=retries)


def body_error(error: Exception, *, phase: Phase = "stream") -> UpstreamError:
    """What it means that reading a response's body failed."""
    if isinstance(error, httpx2.DecodingError):
        return UpstreamError("upstream_malformed", "the upstream's body is not compressed as it says", phase=phase)
    return UpstreamError(
        "upstream_broken",
        "the connection to the upstream broke in the middle of its answer",
        phase=phase,
        retryable=True,
    )


#: What the openai package and its transport raise for a request or a body that fails.
REQUEST_ERRORS: Final = (APIConnectionError, APIStatusError, httpx2.HTTPError, aiohttp.ClientError, OSError)
BODY_ERRORS: Final = (httpx2.HTTPError, aiohttp.ClientError, OSError)


def _status_error(error: APIStatusError, *, name: str, settings: UpstreamSettings, secret: str) -> UpstreamError:
    status, retries = error.status_code, retries_of(error.response)
    try:
        body: object = from_json(error.response.content)
    except ValueError:
        body = None  # HTML of a proxy, most often: of no use in a message
    message, code = describe(body, secret=secret)
    told = f": {message}" if message else ""
    if status in (401, 403):
        cure = (
            f"check the key in {settings.api_key_env}"
            if settings.api_key_env
            else "it was asked without a key: set api_key_env to the name of the variable that holds one"
        )
        text = f"upstream {name!r} refused the request's credentials ({status}); {cure}{told}"
        return UpstreamError(
            "upstream_auth",
            text,
            phase="request",
            code=code or str(status),
            http_status=status,
            retries_taken=retries,
        )
    if 300 <= status < 400:
        told = ": it redirects to another URL, which is not followed; set base_url to where the service is"
    return UpstreamError(
        "upstream_status",
        f"upstream {name!r} answered {status}{told}",
        phase="request",
        code=code or str(status),
        http_status=status,
        retryable=status_retryable(status),
        retries_taken=retries,
    )


def _unreachable(message: str, retries: int, *, retryable: bool = True) -> UpstreamError:
    return UpstreamError("upstream_unreachable", message, phase="request", retryable=retryable, retries_taken=retries)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__


def _innermost(error: Exception) -> BaseException:
    """The transport's own exception. The openai package's are of no help: it calls a closed connection a timeout."""
    found: BaseException = error
    for link in _chain(error):
        if isinstance(link, httpx2.HTTPError | aiohttp.ClientError):
            found = link
    return found


def _is_disconnect(cause: BaseException) -> bool:
    return isinstance(cause, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError | httpx2.ReadError)


def _reason(error: Exception) -> str:
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number and number > 0 else "no such host"
