"""What all rows share: the server, the upstream, workers as processes, and how much to measure."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.processes import Child, child
from tailrace import Settings


@dataclass(frozen=True, slots=True)
class Bench:
    """The bench that a row works at. Each row has namespaces of its own on one server."""

    redis_url: str
    upstream_url: str
    quick: bool
    """A smoke run: as few samples as can be."""

    def scaled(self, full: int, quick: int) -> int:
        """A number of samples or rounds."""
        return quick if self.quick else full

    def settings(self, namespace: str, **worker: Any) -> Settings:
        """For both sides of a namespace; `worker`: settings of that section."""
        return Settings(**self.settings_table(namespace, **worker))

    def settings_table(self, namespace: str, **worker: Any) -> dict[str, Any]:
        """As `settings`, to be written down."""
        return {
            "redis_url": self.redis_url,
            "namespace": f"bench-{namespace}",
            "upstreams": {"default": {"base_url": self.upstream_url, "api_key_env": "", "default_model": "rehearsal"}},
            "worker": worker,
        }

    @asynccontextmanager
    async def tailrace_worker(self, namespace: str, **worker: Any) -> AsyncGenerator[Child]:
        """A worker process for this namespace."""
        configuration = {"settings": self.settings_table(namespace, **worker)}
        async with child("benchmarks.tailrace_worker", configuration) as running:
            yield running

    @asynccontextmanager
    async def arq_worker(self, **options: Any) -> AsyncGenerator[Child]:
        """A process with stock arq's worker; `options` beside its defaults."""
        configuration = {"redis_url": self.redis_url, "options": options}
        async with child("benchmarks.arq_worker", configuration) as running:
            yield running
