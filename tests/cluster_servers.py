"""A real cluster on the loopback: primaries, a replica for each, and what one does to them.

    async with cluster() as c:
        client.from_url(c.url)                       # redis+cluster://:password@127.0.0.1:P1,...
        home = await c.owner_of(key)
        await home.kill()
        heir = await c.wait_for_failover(home)

Formed by CLUSTER commands through redis-py, since the embedded server's wheel has no command-line client.
"""

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count, pairwise
from typing import Any, Final

from redis.crc import key_slot
from redis.exceptions import RedisError

from engine import wait_until
from redis_nodes import LOOPBACK, STORE, Node, Yard, nodes
from tls_certificates import Certificates

SLOTS: Final = 16384
NODE_TIMEOUT_MS: Final = 1500
READY_S: Final = 30.0
MIGRATE_MS: Final = 5000


def slot_of(key: str) -> int:
    """The slot of a key: of what is between its first braces, if there is something."""
    return int(key_slot(key.encode()))


def ranges(primaries: int) -> list[range]:
    """The slots of each primary, evenly."""
    edges = [number * SLOTS // primaries for number in range(primaries + 1)]
    return [range(first, end) for first, end in pairwise(edges)]


@dataclass(frozen=True, slots=True)
class Seen:
    """A node as another one sees it."""

    id: str
    port: int
    flags: frozenset[str]
    primary_id: str | None
    slots: frozenset[int]

    @property
    def is_primary(self) -> bool:
        return "master" in self.flags


class Cluster:
    """Made by `cluster`."""

    def __init__(self, yard: Yard, primaries: int, ids: Mapping[int, str]) -> None:
        self._yard = yard
        self._primaries = primaries
        self._ids = dict(ids)
        """By port."""

    # Who is who.

    @property
    def nodes(self) -> list[Node]:
        """All of them, the first primaries first, whatever became of them."""
        return list(self._yard.nodes)

    @property
    def password(self) -> str:
        return self._yard.password

    @property
    def url(self) -> str:
        """What a client gets: the addresses of the nodes that were primaries at first."""
        return self.url_of(self.nodes[: self._primaries])

    def url_of(self, some: Sequence[Node]) -> str:
        """The same, with these nodes to begin with."""
        scheme, host = ("rediss+cluster", "localhost") if self._yard.tls else ("redis+cluster", LOOPBACK)
        secret = f":{self.password}@" if self.password else ""
        query = f"?ssl_ca_certs={self._yard.tls.authority}" if self._yard.tls else ""
        return f"{scheme}://{secret}{','.join(f'{host}:{node.port}' for node in some)}{query}"

    def id_of(self, node: Node) -> str:
        return self._ids[node.port]

    def shard_of(self, node: Node) -> list[Node]:
        """The node that was the primary at first, and its replicas."""
        number = self.nodes.index(node) % self._primaries
        return self.nodes[number :: self._primaries]

    async def seen_by(self, node: Node) -> dict[int, Seen]:
        """The cluster as this node sees it, by port. Source: redis.io/docs/latest/commands/cluster-nodes."""
        lines: Any = await node.redis.execute_command("CLUSTER", "NODES")
        found: dict[int, Seen] = {}
        for line in lines.splitlines():
            node_id, address, flags, primary_id, _sent, _received, _epoch, _link, *slots = line.split()
            port = int(address.split("@")[0].rpartition(":")[2])
            owned = [_range_of(word) for word in slots if not word.startswith("[")]
            known = None if primary_id == "-" else primary_id
            found[port] = Seen(
                node_id, port, frozenset(flags.split(",")), known, frozenset(n for each in owned for n in each)
            )
        return found

    async def owner_of(self, slot_or_key: int | str) -> Node:
        """The node that most recently took the slot (or the key's), as those see it that answer."""
        slot = slot_of(slot_or_key) if isinstance(slot_or_key, str) else slot_or_key
        found = await self._owner(slot)
        assert found is not None, f"nobody owns slot {slot}"
        return found

    async def primaries(self) -> list[Node]:
        """Who owns slots now, by the lowest of them."""
        view = await self._a_view()
        owners = sorted((seen for seen in view.values() if seen.slots), key=lambda seen: min(seen.slots))
        return [self._node(seen.port) for seen in owners]

    async def replicas_of(self, node: Node) -> list[Node]:
        """Who follows the node now."""
        view = await self._a_view()
        return [self._node(seen.port) for seen in view.values() if seen.primary_id == self.id_of(node)]

    async def names_on(self, node: Node, prefix: str) -> Iterator[str]:
        """Names, `prefix0` and so on, whose keys `...{name}...` the node owns: ids for jobs that live there."""
        view = await (self.seen_by(node) if node.answers else self._a_view())
        slots = view[node.port].slots
        return (name for name in (f"{prefix}{number}" for number in count()) if slot_of(name) in slots)

    # What happens to it.

    async def wait_until_ready(self) -> None:
        """Wait until all nodes that answer see all slots served, one another, and their replicas in step."""
        await wait_until("the cluster is ready", self._is_ready, READY_S)

    async def wait_for_failover(self, node: Node, *, within_s: float = READY_S) -> Node:
        """Wait until a replica has taken the slots of a node that is gone, and all that answer know; the new owner."""
        others = [other for other in self.shard_of(node) if other is not node and other.answers]
        heirs: list[Node] = []

        async def over() -> bool:
            heirs.extend([other for other in others if await self._all_see_as_primary(other)])
            return bool(heirs)

        await wait_until(f"a replica stands in for {node}", over, within_s)
        return heirs[0]

    async def fail_over_to(self, replica: Node, option: str = "") -> None:
        """A failover by hand, which loses nothing; `option`: FORCE or TAKEOVER. Returns when all that answer know."""
        await replica.redis.execute_command("CLUSTER", "FAILOVER", *([option] if option else []))
        await wait_until(f"{replica} is primary", partial(self._all_see_as_primary, replica), READY_S)

    def slot_move(self, slot: int, source: Node, target: Node) -> "SlotMove":
        """Moving a slot with its keys, step by step."""
        return SlotMove(self, slot, source, target)

    async def move_slot(self, slot: int, target: Node) -> None:
        """Move a slot with its keys to another primary."""
        move = self.slot_move(slot, await self.owner_of(slot), target)
        await move.begin()
        await move.move_keys()
        await move.finish()

    async def hand_over(self, slot: int, target: Node) -> None:
        """Move a slot with its keys in one step, without ASK and TRYAGAIN. Valkey 9 and later.

        Source: valkey.io/commands/cluster-migrateslots.
        """
        source = await self.owner_of(slot)
        words = ("SLOTSRANGE", slot, slot, "NODE", self.id_of(target))
        await source.redis.execute_command("CLUSTER", "MIGRATESLOTS", *words)
        await wait_until(f"slot {slot} is {target}'s", lambda: self.all_see_owner(slot, target), READY_S)

    async def reset(self) -> None:
        """As new, but for who is primary in a shard: all nodes up, the slots where they were, no keys, no scripts."""
        for node in self.nodes:
            if node.paused:
                node.resume()
            elif not node.running:
                await node.start()
        await wait_until("all nodes agree", self.agree, READY_S)
        for node in await self.primaries():
            await node.redis.flushall()
            await node.redis.script_flush()
        home = {slot: number for number, slots in enumerate(ranges(self._primaries)) for slot in slots}
        for source in await self.primaries():
            shard = self.nodes.index(source) % self._primaries
            for slot in (await self.seen_by(source))[source.port].slots:
                if home[slot] != shard:
                    target = await self.owner_of(ranges(self._primaries)[home[slot]][0])
                    await SlotMove(self, slot, source, target).finish()
        # Replicas know of open slots too (Valkey), but only primaries can be told.
        half_moved = {slot for node in self.nodes for slot in await _open_slots(node)}
        for node in await self.primaries():
            for slot in half_moved:
                await node.redis.execute_command("CLUSTER", "SETSLOT", slot, "STABLE")
        await self.wait_until_ready()

    # Looking.

    async def all_see_owner(self, slot: int, node: Node) -> bool:
        """Whether all nodes that answer say that the slot is this node's."""
        with suppress(RedisError):
            return all([slot in (await self.seen_by(other))[node.port].slots for other in self._answering()])
        return False

    def _node(self, port: int) -> Node:
        return next(node for node in self.nodes if node.port == port)

    def _answering(self) -> list[Node]:
        return [node for node in self.nodes if node.answers]

    async def _a_view(self) -> dict[int, Seen]:
        return await self.seen_by(self._answering()[0])

    async def _owner(self, slot: int) -> Node | None:
        for node in self._answering():
            # A node knows best about itself.
            mine = (await self.seen_by(node))[node.port]
            if mine.is_primary and slot in mine.slots:
                return node
        view = await self._a_view()
        return next((self._node(seen.port) for seen in view.values() if slot in seen.slots), None)

    async def _all_see_as_primary(self, node: Node) -> bool:
        with suppress(RedisError):
            views = [await self.seen_by(other) for other in self._answering()]
            return all(view[node.port].is_primary and view[node.port].slots for view in views)
        return False

    async def agree(self) -> bool:
        """Whether those that answer say the same of who owns what and who follows whom."""
        with suppress(RedisError):
            said = set[str]()
            for node in self._answering():
                view = await self.seen_by(node)
                told = {(seen.port, seen.primary_id, seen.is_primary, seen.slots) for seen in view.values()}
                said.add(repr(sorted((port, who, own, sorted(slots)) for port, who, own, slots in told)))
                if any(seen.flags & {"handshake", "noaddr"} for seen in view.values()) or len(view) != len(self.nodes):
                    return False
                failing = {seen.port for seen in view.values() if seen.flags & {"fail", "fail?"}}
                if failing & {other.port for other in self._answering()}:
                    return False
            return len(said) == 1
        return False

    async def _is_ready(self) -> bool:
        with suppress(RedisError):
            if not await self.agree():
                return False
            for node in self._answering():
                told: Any = await node.redis.execute_command("CLUSTER", "INFO")
                if "cluster_state:ok" not in told.split():
                    return False
                state: Any = await node.redis.info("replication")
                if state["role"] == "slave" and state["master_link_status"] != "up":
                    return False
            return True
        return False


class SlotMove:
    """A slot on its way from one primary to another; between two steps clients meet what they meet in a resharding.

    After `begin`: ASK for keys that are not (any more) at the source, TRYAGAIN for commands on several keys of which some
    are there and some are not. After `finish`: MOVED at the source.
    Source: redis.io/docs/latest/commands/cluster-setslot.
    """

    def __init__(self, cluster: Cluster, slot: int, source: Node, target: Node) -> None:
        self.slot = slot
        self.source = source
        self.target = target
        self._cluster = cluster

    async def begin(self) -> None:
        """Mark the slot on both sides."""
        await self._set(self.target, "IMPORTING", self._cluster.id_of(self.source))
        await self._set(self.source, "MIGRATING", self._cluster.id_of(self.target))

    async def move_keys(self, *names: str) -> int:
        """Move these keys, or all that the slot has; how many."""
        moved = 0
        while keys := list(names) or await self._keys():
            secret = ["AUTH", self._cluster.password] if self._cluster.password else []
            where = (LOOPBACK, self.target.port, "", 0, MIGRATE_MS)
            await self.source.redis.execute_command("MIGRATE", *where, *secret, "KEYS", *keys)
            moved += len(keys)
            if names:
                break
        return moved

    async def finish(self) -> None:
        """The target owns the slot; all nodes that answer know it."""
        target_id = self._cluster.id_of(self.target)
        # The target first: were it the source, and it died then, nobody would own the slot.
        await self._set(self.target, "NODE", target_id)
        await self._set(self.source, "NODE", target_id)
        known = partial(self._cluster.all_see_owner, self.slot, self.target)
        await wait_until(f"slot {self.slot} is {self.target}'s", known, READY_S)

    async def abandon(self) -> None:
        """Call it off, before a key was moved."""
        for node in (self.source, self.target):
            await self._set(node, "STABLE")

    async def _set(self, node: Node, *words: str) -> None:
        await node.redis.execute_command("CLUSTER", "SETSLOT", self.slot, *words)

    async def _keys(self) -> list[str]:
        found: Any = await self.source.redis.execute_command("CLUSTER", "GETKEYSINSLOT", self.slot, 100)
        return list(found)


@asynccontextmanager
async def cluster(
    *,
    primaries: int = 3,
    replicas: int = 1,
    full_coverage: bool = False,
    node_timeout_ms: int = NODE_TIMEOUT_MS,
    binary: str | None = None,
    password: str | None = None,
    tls: Certificates | None = None,
    config: Mapping[str, str] | None = None,
) -> AsyncGenerator[Cluster]:
    """A cluster that is ready. `full_coverage`: whether all of it refuses while one slot has no primary (the servers'
    default is yes). `config`: more lines for every node."""
    settings = {
        **STORE,
        "cluster-enabled": "yes",
        "cluster-node-timeout": str(node_timeout_ms),
        "cluster-require-full-coverage": "yes" if full_coverage else "no",
        # However long its primary was away, a replica may stand in; and it stays with its shard.
        "cluster-replica-validity-factor": "0",
        "cluster-allow-replica-migration": "no",
        "cluster-migration-barrier": "100",
    }
    async with nodes(binary=binary, password=password, tls=tls) as yard:
        if yard.password:
            settings["masterauth"] = yard.password
        if tls is not None:
            # The certificate is for the name.
            secure = {"tls-cluster": "yes", "cluster-announce-hostname": "localhost"}
            settings |= {**secure, "cluster-preferred-endpoint-type": "hostname"}
        names = [f"node{number}" for number in range(primaries * (1 + replicas))]
        buses = [yard.free_port() for _ in names]
        for name, bus in zip(names, buses, strict=True):
            await yard.start(name, {**settings, "cluster-port": str(bus), **(config or {})})
        ids = {node.port: str(await node.redis.execute_command("CLUSTER", "MYID")) for node in yard.nodes}
        made = Cluster(yard, primaries, ids)
        await _form(made, primaries, buses)
        yield made


async def _form(made: Cluster, primaries: int, buses: Sequence[int]) -> None:
    for number, node in enumerate(made.nodes):
        # Epochs of their own from the start: nodes that have the same settle it by and by, which takes seconds.
        await node.redis.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
    for node, slots in zip(made.nodes, ranges(primaries), strict=False):
        await node.redis.execute_command("CLUSTER", "ADDSLOTSRANGE", slots[0], slots[-1])
    # Everybody meets everybody: by gossip alone it takes seconds.
    for node in made.nodes:
        for other, bus in zip(made.nodes, buses, strict=True):
            if other is not node:
                await node.redis.execute_command("CLUSTER", "MEET", LOOPBACK, other.port, bus)
    await wait_until("all nodes know one another", made.agree, READY_S)
    for number, node in enumerate(made.nodes[primaries:]):
        await node.redis.execute_command("CLUSTER", "REPLICATE", made.id_of(made.nodes[number % primaries]))
    await made.wait_until_ready()


async def _open_slots(node: Node) -> list[int]:
    """The slots that the node is moving or taking. They stand in its own line only."""
    lines: Any = await node.redis.execute_command("CLUSTER", "NODES")
    words = [word for line in lines.splitlines() if "myself" in line for word in line.split()[8:]]
    return [int(word[1:].split("-")[0]) for word in words if word.startswith("[")]


def _range_of(word: str) -> range:
    first, _, last = word.partition("-")
    return range(int(first), int(last or first) + 1)
