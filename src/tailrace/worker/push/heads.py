"""The head of a request, as bytes that cannot be taken for anything else."""

import re
from collections.abc import Iterable
from typing import Final

import httpx2

#: RFC 9110, 5.6.2.
_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
#: What would end a header, or the head (RFC 9110, 5.5).
_UNSAFE_VALUE: Final = re.compile(rb"[\r\n\0]")
_UNSAFE_TARGET: Final = re.compile(rb"[\x00-\x20\x7f]")
#: How long the body is, is said here: the request's own words may be of a stream that was read meanwhile.
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})
_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})
#: Their responses have another framing than all others.
_UNSPOKEN: Final = frozenset({"HEAD", "CONNECT"})


def request_head(
    request: httpx2.Request, target: bytes, length: int, more: Iterable[tuple[bytes, bytes]] = ()
) -> bytes:
    """A request's head, with `more` headers after its own. Raises: httpx2.LocalProtocolError."""
    if request.method in _UNSPOKEN:
        raise httpx2.LocalProtocolError(f"{request.method} requests are not sent by this transport", request=request)
    headers = [(name, value) for name, value in request.headers.raw if name.lower() not in _FRAMING]
    if "host" not in request.headers:
        headers.insert(0, (b"Host", request.url.netloc))
    headers += more
    if length or request.method in _WITH_BODY:
        headers.append((b"Content-Length", b"%d" % length))
    try:
        return head_of(request.method.encode(), target, headers)
    except ValueError as error:
        raise httpx2.LocalProtocolError(str(error), request=request) from error


def head_of(method: bytes, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Raises: ValueError for what would break out of its place. It shows no value: that may be a key."""
    if not _TOKEN.fullmatch(method):
        raise ValueError(f"{method!r} is no HTTP method")
    if not target or _UNSAFE_TARGET.search(target):
        raise ValueError("the request's target has characters that no HTTP request can carry")
    lines = [b"%s %s HTTP/1.1" % (method, target)]
    for name, value in headers:
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"{name!r} is no name of an HTTP header")
        if _UNSAFE_VALUE.search(value):
            raise ValueError(f"the value of the header {name.decode()!r} has characters that no HTTP header can carry")
        lines.append(b"%s: %s" % (name, value))
    return b"\r\n".join([*lines, b"", b""])


def authority(host: bytes, port: int) -> bytes:
    """`host:port`, with brackets around an IPv6 address."""
    return b"[%s]:%d" % (host, port) if b":" in host else b"%s:%d" % (host, port)
