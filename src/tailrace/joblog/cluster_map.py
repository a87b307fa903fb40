"""Which node of a cluster serves which slot, as the nodes tell it. Asked for again and again: nobody announces a change.

Source: redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, cast

from redis.crc import key_slot
from redis.exceptions import MovedError, RedisError

from tailrace.joblog.addresses import address_of, split_hosts
from tailrace.joblog.connections import Broker, connect
from tailrace.joblog.tasks import end
from tailrace.joblog.translation import ANSWER_TIMEOUT_S
from tailrace.schemas import BrokerUnavailable, InvalidRequest

logger = logging.getLogger(__name__)

SCHEMES: Final = {"redis+cluster": "redis", "rediss+cluster": "rediss"}
#: Of a node that hangs it is not known that it was replaced, unless somebody asks the others.
_EVERY_S: Final = 1.0
#: So many nodes are asked at a time, and this long; after the first answer, the others have a moment.
_ASKED: Final = 3
_PATIENCE_S: Final = 2.0
_MOMENT_S: Final = 0.05
#: A node that refused is taken to be away for so long, unless it answers before.
_REFUSED_S: Final = 5.0
#: Who waits for several nodes waits so much longer than for the first for those that have not answered.
SILENT_S: Final = 2.0

Address = str
"""A node, as `host:port`."""


@dataclass(frozen=True, slots=True)
class _Told:
    """What one node says."""

    epoch: int
    """The highest that it knows of: who knows a higher one knows better."""
    slots: Mapping[int, Address] = field(repr=False)


class ClusterMap:
    """The nodes of a cluster, each with connections of its own. While open it looks for changes."""

    def __init__(self, url: str) -> None:
        """Raises: InvalidRequest if the URL is none of a cluster."""
        self._node_url, seeds = _parts(url)
        self._nodes: dict[Address, Broker] = {}
        for seed in seeds:
            self.node(seed)
        self._seeds = seeds
        self._slots: dict[int, Address] = {}
        self._epoch = -1
        self._doubted = asyncio.Event()
        self._looking = asyncio.Lock()
        self._looks = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._late: set[asyncio.Task[Any]] = set()
        self._refused: dict[Address, float] = {}
        self.on_change: list[Callable[[], None]] = []
        """Called when a slot has another owner."""

    async def open(self) -> None:
        """Look for changes from now on. Asks nobody yet."""
        self._tasks = {asyncio.create_task(self._look_for_ever(), name="tailrace-cluster-map")}

    async def close(self) -> None:
        """Close all connections."""
        await end(self._tasks)
        await end(self._late)
        for node in self._nodes.values():
            await node.redis.aclose()

    @property
    def known(self) -> bool:
        """Whether any node has told yet."""
        return bool(self._slots)

    @property
    def primaries(self) -> list[Address]:
        """The nodes that serve slots; before that is known, those that the URL names."""
        return list(dict.fromkeys(self._slots.values())) or self._seeds

    def owner(self, key: str) -> Address:
        """The node that serves a key's slot, as far as is known."""
        return self._slots.get(key_slot(key.encode())) or self._seeds[0]

    def node(self, address: Address) -> Broker:
        """The broker of one node. Raises: InvalidRequest for an address that is none."""
        node = self._nodes.get(address)
        if node is None:
            node = self._nodes[address] = Broker(connect(self._node_url(address)))
        return node

    def silent(self, address: Address) -> bool:
        """Whether somebody has been waiting for this node for so long that nobody else should."""
        # After the longest that anybody waits it is asked again, on another connection.
        return address in self._nodes and SILENT_S < self._nodes[address].shared_pipe.silent_s < ANSWER_TIMEOUT_S

    def well(self, address: Address) -> bool:
        """Whether the node answers, as far as is known."""
        refused_at = self._refused.get(address)
        refuses = refused_at is not None and asyncio.get_running_loop().time() < refused_at + _REFUSED_S
        return not refuses and not self.silent(address)

    def told(self, address: Address, *, answers: bool) -> None:
        """Whether the node answered who has just asked it."""
        if not answers:
            self._refused[address] = asyncio.get_running_loop().time()
        elif self._refused:
            self._refused.pop(address, None)

    def leave_to_itself(self, asking: asyncio.Task[Any]) -> None:
        """Nobody waits for this answer any more. It ends by itself, and takes a connection that hangs with it."""
        self._late.add(asking)
        asking.add_done_callback(self._late.discard)

    def moved(self, error: MovedError, told_by: Address) -> None:
        """A node says that another one serves this slot."""
        owner = named_by(error, told_by)
        self.doubt()
        if self._slots.get(error.slot_id) != owner:
            self._slots[error.slot_id] = owner
            self._tell()

    def doubt(self) -> None:
        """Something is not as the map says: look soon."""
        self._doubted.set()

    async def look(self) -> None:
        """Ask nodes for the map now; who comes while it is asked for waits for that. Raises: BrokerUnavailable."""
        looks = self._looks
        async with self._looking:
            if looks == self._looks:
                await self._look()
                self._looks += 1

    async def _look_for_ever(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_EVERY_S):
                    await self._doubted.wait()
            self._doubted.clear()
            if not self._looks and not self.known:
                continue  # nobody has asked for anything yet
            with suppress(BrokerUnavailable):
                await self.look()
            # What has just been learned needs no other look at once.
            await asyncio.sleep(_MOMENT_S)

    async def _look(self) -> None:
        candidates = list(dict.fromkeys([*self.primaries, *self._seeds]))
        random.shuffle(candidates)
        told: list[_Told] = []
        for start in range(0, len(candidates), _ASKED):
            told = await self._ask(candidates[start : start + _ASKED])
            if told:
                break
        if not told:
            raise BrokerUnavailable(
                "no node of the Redis Cluster answers. Is it running, and is TAILRACE_REDIS_URL right?"
            )
        best = max(told, key=lambda each: each.epoch)
        if best.epoch >= self._epoch:
            await self._take(best)

    async def _ask(self, addresses: Sequence[Address]) -> list[_Told]:
        asking = {asyncio.create_task(self._told_by(address), name="tailrace-cluster-ask") for address in addresses}
        told: list[_Told] = []
        waiting, until = asking, asyncio.get_running_loop().time() + _PATIENCE_S
        try:
            while waiting and (left_s := until - asyncio.get_running_loop().time()) > 0:
                done, waiting = await asyncio.wait(waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                if not told and any(task.result() for task in done):
                    until = min(until, asyncio.get_running_loop().time() + _MOMENT_S)
                told += [answer for task in done if (answer := task.result()) is not None]
        finally:
            await end(asking)
        return told

    async def _told_by(self, address: Address) -> _Told | None:
        try:
            info, slots = await self.node(address).many([("CLUSTER", "INFO"), ("CLUSTER", "SLOTS")])
        except (BrokerUnavailable, InvalidRequest):
            self.told(address, answers=False)
            return None
        self.told(address, answers=True)
        if isinstance(info, RedisError) or isinstance(slots, RedisError):
            logger.warning("cluster: %s does not tell its slots: %s", address, slots)
            return None
        found: dict[int, Address] = {}
        for first, last, (host, port, *_), *_ in cast("list[Any]", slots):
            owner = _address(_text(host), port, address)
            found.update(dict.fromkeys(range(first, last + 1), owner))
        lines = dict(line.split(":", 1) for line in _text(info).splitlines() if ":" in line)
        return _Told(int(lines.get("cluster_current_epoch", 0)), found) if found else None

    async def _take(self, told: _Told) -> None:
        self._epoch = told.epoch
        if told.slots == self._slots:
            return
        served, self._slots = set(self._slots.values()), dict(told.slots)
        self._tell()
        serving = set(self._slots.values())
        for address in [address for address in self._nodes if address not in serving]:
            if address in served:
                logger.info("cluster: %s serves no slots any more", address)
            # Also what waits for its answers: a node that hangs was replaced.
            self._refused.pop(address, None)
            await self._nodes.pop(address).redis.aclose()

    def _tell(self) -> None:
        for changed in self.on_change:
            changed()


def named_by(error: Any, told_by: Address) -> Address:
    """The node that an answer sends on to."""
    return _address(error.host, error.port, told_by)


def _address(host: str, port: int, told_by: Address) -> Address:
    """Without a host it is the host that was asked."""
    return address_of(host, port) if host else f"{told_by.rpartition(':')[0]}:{port}"


def _text(raw: Any) -> str:
    return raw.decode() if isinstance(raw, bytes) else str(raw or "")


def _parts(url: str) -> tuple[Callable[[Address], str], list[Address]]:
    """What makes a node's URL of its address, and the addresses that the URL names."""
    scheme, _, rest = url.partition("://")
    beginning, asked, query = rest.partition("?")
    authority, _, database = beginning.partition("/")
    login, at, hosts = authority.rpartition("@")
    plain = SCHEMES.get(scheme.lower())
    try:
        seeds = [address_of(*host) for host in split_hosts(hosts, 6379)]
    except ValueError:
        seeds = []
    if plain is None or database not in ("", "0") or not seeds:
        # Without its words: there may be a password in it.
        raise InvalidRequest(
            "TAILRACE_REDIS_URL is no cluster's URL: write redis+cluster://[user:password@]host:port[,host:port ...], or "
            "rediss+cluster://... for TLS; a cluster has database 0 only"
        )

    def node_url(address: Address) -> str:
        return f"{plain}://{login}{at}{address}/0{asked}{query}"

    return node_url, seeds
