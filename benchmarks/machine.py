"""What a run was made with: versions and the kind of machine, never its name or paths."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, cast

from redis import Redis

_PACKAGES: Final = ("tailrace", "redis", "hiredis", "arq", "openai", "aiohttp", "pydantic")


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and with what."""

    date: str
    cores: int
    cpu: str
    system: str
    python: str
    server: str
    packages: dict[str, str]

    @classmethod
    def here(cls, redis_url: str) -> "Machine":
        return cls(
            date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            cores=usable_cores(),
            cpu=_cpu(),
            system=f"{platform.system()} {platform.machine()}",
            python=f"{platform.python_implementation()} {platform.python_version()}",
            server=_server(redis_url),
            packages={name: found for name in _PACKAGES if (found := _version(name))},
        )

    def lines(self) -> Sequence[str]:
        """For a reader."""
        packages = ", ".join(f"{name} {number}" for name, number in self.packages.items())
        return (
            f"{self.date}; {self.cores} cores of {self.cpu}, {self.system}",
            f"{self.python}; {self.server}; {packages}",
        )


def usable_cores() -> int:
    """How many this process may use."""
    # Not os.cpu_count: a container may use fewer than there are.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _server(redis_url: str) -> str:
    make = cast("Any", Redis)
    with make.from_url(redis_url) as client:
        info = client.info("server")
    name = str(info.get("server_name", "redis")).capitalize()
    return f"{name} {info.get('valkey_version', info['redis_version'])}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
