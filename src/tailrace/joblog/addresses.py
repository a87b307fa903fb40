"""Addresses of servers, as URLs name several."""

from urllib.parse import urlsplit


def split_hosts(hosts: str, default_port: int) -> list[tuple[str, int]]:
    """`host[:port],host[:port] ...` Raises: ValueError if one is none."""
    found: list[tuple[str, int]] = []
    for each in hosts.split(","):
        parts = urlsplit(f"//{each}")
        if not parts.hostname or parts.path or parts.query:
            raise ValueError("a host is missing")
        found.append((parts.hostname, parts.port or default_port))
    return found


def address_of(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"
