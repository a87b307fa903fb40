"""All servers of a broker looked at together: each for what it has, and their clocks against one another."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from tailrace.joblog.connections import Broker
from tailrace.joblog.rights import Holds, Role
from tailrace.joblog.suitability import Finding, check_server
from tailrace.schemas import GRACE_S, BrokerUnavailable, BrokerUnsuitable, Keys, TailraceError

#: A server that hangs must not keep one from hearing of the others.
PATIENCE_S: Final = 10.0
#: Deadlines are by the clock of the log's server, leases and the sweep's checks by the queue's.
CLOCKS_APART_S: Final = GRACE_S / 2
#: What passes when a server comes back. Anything else that is an error is to be changed by somebody.
PASSING: Final = frozenset({"unavailable", "cluster-state"})


@dataclass(frozen=True, slots=True)
class Server:
    """One server and what was found there."""

    name: str
    """Its address if it is one of a cluster's; else "logs" or "queue", "server" if it is both."""
    holds: Holds
    findings: Sequence[Finding]

    @property
    def error(self) -> Finding | None:
        """What keeps it from working."""
        return next((finding for finding in self.findings if finding.level == "error"), None)

    @property
    def away(self) -> bool:
        """Whether it does not answer at all."""
        return any(finding.code == "unavailable" for finding in self.findings)


@dataclass(frozen=True, slots=True)
class Servers:
    """Iterates over what was found, with the name of the server that it is about."""

    each: Sequence[Server]
    together: Sequence[Finding] = field(default=())
    """What is about all of them."""

    def __iter__(self) -> Iterator[tuple[str, Finding]]:
        for server in self.each:
            for finding in server.findings:
                yield server.name, finding
        for finding in self.together:
            yield "servers", finding

    def error(self) -> tuple[str, Finding] | None:
        """Why nothing can be done at all: the queue's server does not work, or none of the logs' does."""
        queue = [server for server in self.each if server.holds != "logs"]
        logs = [server for server in self.each if server.holds == "logs"]
        for some, fatal in ((queue, any), (logs, all)):
            wrong = [(server.name, server.error) for server in some if server.error is not None]
            if some and fatal(server.error is not None for server in some):
                return wrong[0]
        return None


async def check_servers(
    broker: Broker, keys: Keys, *, role: Role | None = "worker", patience_s: float = PATIENCE_S
) -> Servers:
    """Look at every server, all at a time. One that does not answer is an error among the findings (`unavailable`)."""
    with suppress(TailraceError, TimeoutError):  # then its nodes say why, those that the URL names
        async with asyncio.timeout(patience_s):
            await broker.look_again()
    looked: list[tuple[str, Redis, Holds, Callable[[str], bool] | None]] = []
    for place, part in broker.parts.items():
        serves = partial(_is_at, broker, place) if broker.spread else None
        name = place or ("logs" if broker.apart else "server")
        looked.append((name, part.redis, "logs" if broker.apart else "all", serves))
    if broker.apart:
        looked.append(("queue", broker.queue.redis, "queue", None))
    found, times = await asyncio.gather(
        asyncio.gather(*(_look(redis, keys, role, holds, serves, patience_s) for _, redis, holds, serves in looked)),
        asyncio.gather(*(_ahead_s(redis, patience_s) for _, redis, _, _ in looked)),
    )
    servers = [Server(name, holds, each) for (name, _, holds, _), each in zip(looked, found, strict=True)]
    ahead = {name: s for (name, *_), s in zip(looked, times, strict=True) if s is not None}
    return Servers(servers, [clocks(ahead)] if len(ahead) > 1 else [])


async def require_servers(broker: Broker, keys: Keys) -> Servers:
    """As `check_servers`, for a worker's start: what was found, if a worker can do its work.

    A log's server that is away while others answer is no hindrance: the others' jobs are to be done. What somebody has to
    change is one, on whatever server. Raises: BrokerUnsuitable for the first such error; BrokerUnavailable.
    """
    servers = await check_servers(broker, keys)
    several = len(servers.each) > 1
    for name, finding in servers:
        if finding.level == "error" and finding.code not in PASSING:
            raise BrokerUnsuitable(f"{name}: {finding.what}" if several else finding.what, cure=finding.cure)
    if (error := servers.error()) is not None:
        name, finding = error
        raise BrokerUnavailable(f"{name}: {finding.what}" if several else finding.what)
    return servers


def clocks(ahead_s: dict[str, float]) -> Finding:
    """How far the servers' clocks are apart, by how far each is ahead of ours."""
    behind, ahead = min(ahead_s, key=ahead_s.__getitem__), max(ahead_s, key=ahead_s.__getitem__)
    apart_s = ahead_s[ahead] - ahead_s[behind]
    told = f"the clock of {ahead} is {apart_s:.3f} s ahead of that of {behind}"
    if apart_s > CLOCKS_APART_S:
        return Finding(
            "warning", "clocks", f"{told}: jobs expire too early or too late", "synchronise the servers' clocks (NTP)"
        )
    return Finding("ok", "clocks", f"{told}, the furthest of {len(ahead_s)} servers")


def _is_at(broker: Broker, place: str, key: str) -> bool:
    return broker.place(key) == place


async def _look(
    redis: Redis,
    keys: Keys,
    role: Role | None,
    holds: Holds,
    serves: Callable[[str], bool] | None,
    patience_s: float,
) -> list[Finding]:
    name = "TAILRACE_QUEUE_URL" if holds == "queue" else "TAILRACE_REDIS_URL"
    cure = f"start the server, or correct {name}" + ("" if holds != "all" else "; without it there is the embedded one")
    try:
        async with asyncio.timeout(patience_s):
            return await check_server(redis, keys, role=role, holds=holds, serves=serves)
    except TimeoutError:
        return [Finding("error", "unavailable", f"the server has not answered within {patience_s:g} s", cure)]
    except BrokerUnavailable as error:
        return [Finding("error", "unavailable", str(error), cure)]
    except BrokerUnsuitable as error:
        return [Finding("error", "unsuitable", str(error).removesuffix(f": {error.cure}"), error.cure)]


async def _ahead_s(redis: Redis, patience_s: float) -> float | None:
    """How far the server's clock is ahead of ours; None if it does not tell."""
    began = time.monotonic(), time.time()
    try:
        async with asyncio.timeout(patience_s):
            seconds, micros = await _time(redis)
    except (RedisError, OSError, TimeoutError):
        return None
    return seconds + micros / 1e6 - began[1] - (time.monotonic() - began[0]) / 2


async def _time(redis: Any) -> tuple[int, int]:
    seconds, micros = await redis.time()
    return int(seconds), int(micros)
