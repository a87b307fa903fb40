"""Without keys: everybody on this machine, and nobody else."""

from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from tailrace.gateway.access.principal import Principal
from tailrace.gateway.errors import ApiError

_CURE: Final = "configure keys ([gateway.tenants] in the file that TAILRACE_CONFIG names) to let others in"


class OpenAccess:
    """Lets in who connects from this machine and calls it by a name of this machine.

    The name matters because of browsers: a page of another site could otherwise have its own name point to 127.0.0.1 and
    read every job (DNS rebinding), or send requests that change something from wherever it is.
    """

    def __init__(self, origins: tuple[str, ...] = ()) -> None:
        """`origins`: pages that may call beside this gateway's own."""
        self._origins = origins

    async def principal(self, connection: HTTPConnection) -> Principal:
        if connection.client is not None and not is_loopback(connection.client.host):
            raise ApiError(
                403, f"no key is configured here, so only this machine may ask: {_CURE}", code="loopback_only"
            )
        called = connection.headers.get("host")
        host = None if called is None else _hostname(f"//{called}")
        # HTTP/1.0 knows requests without a name; no browser sends one.
        if called is not None and (host is None or not is_loopback(host)):
            raise ApiError(
                403,
                f"no key is configured here, so it answers to 127.0.0.1 and localhost only, not to {called!r}: {_CURE}",
                code="loopback_only",
            )
        origin = connection.headers.get("origin")
        if origin is not None and not self._may_call(origin, connection.headers.get("host", "")):
            raise ApiError(
                403,
                f"pages of {origin!r} may not call this gateway: add it to gateway.cors_origins",
                code="origin_refused",
            )
        return Principal(sees_all=True)

    def _may_call(self, origin: str, host: str) -> bool:
        return "*" in self._origins or origin in self._origins or urlsplit(origin).netloc == host != ""


def is_loopback(host: str) -> bool:
    """Whether a host or address is this machine's own."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
