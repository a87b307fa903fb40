"""Connecting to public addresses only: what is checked is the address that is connected to, not a name."""

import asyncio
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final, cast

import httpcore2

_NAT64: Final = IPv6Network("64:ff9b::/96")
_LOCAL_NAT64: Final = IPv6Network("64:ff9b:1::/48")


class AddressRefused(httpcore2.ConnectError):
    """A receiver's name leads to no public address, and its configuration does not allow private ones."""


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet; IPv4 addresses inside IPv6 ones are looked at too."""
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, IPv6Address):
        # Of tunnels (6to4, Teredo), later Pythons say that they are private, earlier ones not: nobody receives there.
        if ip in _LOCAL_NAT64 or ip.is_site_local or ip.sixtofour is not None or ip.teredo is not None:
            return False
        inner = _inside(ip)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_loopback or ip.is_link_local)


def _inside(ip: IPv6Address) -> IPv4Address | None:
    if ip in _NAT64 or int(ip) >> 32 == 0:
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped


class PublicOnly(httpcore2.AsyncNetworkBackend):
    """Resolves a name once and connects to what it has checked: a name that changes in between changes nothing."""

    def __init__(self, inner: httpcore2.AsyncNetworkBackend | None = None) -> None:
        """`inner` connects to addresses."""
        # To a type checker it is one of two classes, as anyio is installed or not.
        self._inner = inner or cast("httpcore2.AsyncNetworkBackend", httpcore2.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Raises: AddressRefused, httpcore2.ConnectError, httpcore2.ConnectTimeout."""
        addresses = await resolved(host, port)
        public = [address for address in addresses if is_public(address)]
        if not public:
            raise AddressRefused("the receiver has no public address (allow_private = true allows others)")
        failure: Exception = AddressRefused("no address")
        for address in public:
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ARG002  # refused in any case
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,  # noqa: ARG002
    ) -> httpcore2.AsyncNetworkStream:
        raise AddressRefused(f"{path!r} is no public address")


async def resolved(host: str, port: int) -> list[str]:
    """A name's addresses, in the order in which the system would try them. Raises: httpcore2.ConnectError."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpcore2.ConnectError("the receiver's name cannot be resolved") from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
