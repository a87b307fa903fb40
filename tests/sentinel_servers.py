"""A primary with replicas on the loopback, and the sentinels that watch over it.

    async with sentinels() as s:
        client.from_url(s.url)               # redis+sentinel://:password@127.0.0.1:P1,.../mymaster/0
        old = await s.primary()
        await old.kill()
        new = await s.wait_for_failover(old)

The sentinels have no password; the servers behind them have one.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from redis.exceptions import RedisError

from engine import wait_until
from redis_nodes import LOOPBACK, STORE, Node, Yard, nodes
from tls_certificates import Certificates

NAME: Final = "mymaster"
DOWN_AFTER_MS: Final = 1000
READY_S: Final = 30.0


class Sentinels:
    """Made by `sentinels`."""

    def __init__(self, yard: Yard, servers: list[Node], watchers: list[Node]) -> None:
        self._yard = yard
        self.servers = servers
        """The first primary first, whatever became of it."""
        self.watchers = watchers
        """The sentinels."""

    @property
    def password(self) -> str:
        """The servers'."""
        return self._yard.password

    @property
    def url(self) -> str:
        """What a client gets."""
        secret = f":{self.password}@" if self.password else ""
        hosts = ",".join(watcher.address for watcher in self.watchers)
        return f"redis+sentinel://{secret}{hosts}/{NAME}/0"

    async def told_by(self, watcher: Node) -> Node:
        """Who is the primary, by this sentinel."""
        told: Any = await watcher.redis.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)
        return self._server(int(told[1]))

    async def primary(self) -> Node:
        """Who is the primary, by the first sentinel that answers."""
        return await self.told_by(next(watcher for watcher in self.watchers if watcher.answers))

    async def replicas(self) -> list[Node]:
        """The servers that answer and follow the primary."""
        primary = await self.primary()
        return [node for node in self.servers if node.answers and node is not primary]

    async def wait_until_ready(self) -> None:
        """Wait until the sentinels agree, know one another and all servers, and the replicas that answer are in step."""
        await wait_until("the sentinels are ready", self._is_ready, READY_S)

    async def wait_for_failover(self, old: Node, *, within_s: float = READY_S) -> Node:
        """Wait until all sentinels that answer name another primary, and it takes writes; that one."""
        return await self.wait_for_primary(other_than=old, within_s=within_s)

    async def wait_for_primary(self, *, other_than: Node | None = None, within_s: float = READY_S) -> Node:
        """Wait until all sentinels that answer name the same primary, and it takes writes; that one."""
        found: list[Node] = []

        async def named() -> bool:
            with suppress(RedisError):
                told = {await self.told_by(watcher) for watcher in self.watchers if watcher.answers}
                if len(told) == 1 and other_than not in told:
                    (node,) = told
                    if node.answers and (await node.redis.role())[0] == "master":
                        found.append(node)
            return bool(found)

        await wait_until(f"there is a primary other than {other_than}", named, within_s)
        return found[0]

    async def fail_over(self) -> Node:
        """A failover by hand (SENTINEL FAILOVER); the new primary."""
        old = await self.primary()
        await self.watchers[0].redis.execute_command("SENTINEL", "FAILOVER", NAME)
        return await self.wait_for_failover(old)

    def _server(self, port: int) -> Node:
        return next(node for node in self.servers if node.port == port)

    async def _is_ready(self) -> bool:
        with suppress(RedisError):
            told = {await self.told_by(watcher) for watcher in self.watchers if watcher.answers}
            if len(told) != 1:
                return False
            for watcher in self.watchers:
                if watcher.answers and not await self._knows_all(watcher):
                    return False
            primary = told.pop()
            for node in self.servers:
                state: Any = await node.redis.info("replication") if node.answers else None
                if state is None:
                    continue
                wanted = "master" if node is primary else "slave"
                if state["role"] != wanted or state.get("master_link_status", "up") != "up":
                    return False
                if node is not primary and state["master_port"] != primary.port:
                    return False
            return True
        return False

    async def _knows_all(self, watcher: Node) -> bool:
        raw: Any = await watcher.redis.execute_command("SENTINEL", "MASTER", NAME)
        told: dict[str, Any] = dict(zip(raw[::2], raw[1::2], strict=True))
        counts = int(told["num-slaves"]), int(told["num-other-sentinels"])
        flags = str(told["flags"]).split(",")
        return counts == (len(self.servers) - 1, len(self.watchers) - 1) and flags == ["master"]


@asynccontextmanager
async def sentinels(
    *,
    replicas: int = 2,
    watchers: int = 3,
    binary: str | None = None,
    password: str | None = None,
    tls: Certificates | None = None,
    config: Mapping[str, str] | None = None,
) -> AsyncGenerator[Sentinels]:
    """All of it, once it is ready. `config`: more lines for every server."""
    async with nodes(binary=binary, password=password, tls=tls) as yard:
        secret = {"masterauth": yard.password} if yard.password else {}
        settings = {**STORE, **secret, **(config or {})}
        first = await yard.start("server0", settings)
        following = {**settings, "replicaof": f"{LOOPBACK} {first.port}"}
        servers = [first, *[await yard.start(f"server{number}", following) for number in range(1, replicas + 1)]]
        watching = {
            "sentinel monitor": f"{NAME} {LOOPBACK} {first.port} {watchers // 2 + 1}",
            "sentinel down-after-milliseconds": f"{NAME} {DOWN_AFTER_MS}",
            # Also how long a sentinel waits before it tries again to be elected, and before it stands after a vote.
            "sentinel failover-timeout": f"{NAME} 3000",
            "sentinel parallel-syncs": f"{NAME} {max(1, replicas)}",
            **({"sentinel auth-pass": f"{NAME} {yard.password}"} if yard.password else {}),
        }
        found = [
            await yard.start(f"sentinel{number}", watching, flags=["--sentinel"], password="")
            for number in range(watchers)
        ]
        made = Sentinels(yard, servers, found)
        await made.wait_until_ready()
        yield made
