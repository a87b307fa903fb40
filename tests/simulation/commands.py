"""The commands of Redis that tailrace uses, as far as it uses them. `tests/simulation` holds them to a real server."""

import fnmatch
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from .arguments import MAX, bound_of, edge_of, integer_of, named, position_of, score_of, show
from .database import Database, Hash, Stream
from .scripting import ServerError, Simple, sha

OK: Final = Simple(b"OK")
_SYNTAX: Final = "ERR syntax error"

Command = Callable[["Commands", Sequence[bytes]], Any]


class Commands:
    """Executes one command against a database. `publish(channel, message)` answers how many heard it; `about()` is what the
    server says of itself."""

    def __init__(
        self,
        db: Database,
        now_us: Callable[[], int],
        publish: Callable[[bytes, bytes], int],
        about: Callable[[], Mapping[str, str]],
    ) -> None:
        self.db, self._now_us, self._publish, self._about = db, now_us, publish, about

    def execute(self, command: Sequence[bytes]) -> Any:
        """Raises: ServerError; KeyError for a command that is none of them, which ends the simulation."""
        return _COMMANDS[command[0].upper()](self, command)

    def now_ms(self) -> int:
        return self._now_us() // 1000

    # Strings and keys.

    def get(self, command: Sequence[bytes]) -> Any:
        return self.db.get(command[1], bytes)

    def getrange(self, command: Sequence[bytes]) -> bytes:
        value: bytes = self.db.get(command[1], bytes) or b""
        start, end = integer_of(command[2]), integer_of(command[3])
        start, end = (number + len(value) if number < 0 else number for number in (start, end))
        return value[max(0, start) : max(0, end + 1)]

    def set(self, command: Sequence[bytes]) -> Any:
        expires: int | None = None
        only_new = False
        options = iter(command[3:])
        for option in options:
            match option.upper():
                case b"PX":
                    expires = self.now_ms() + integer_of(next(options))
                case b"PXAT":
                    expires = integer_of(next(options))
                case b"NX":
                    only_new = True
                case _:
                    raise ServerError(_SYNTAX)
        if only_new and self.db.find(command[1]) is not None:
            return None
        self.db.put(command[1], command[2], expires_ms=expires)
        return OK

    def incr(self, command: Sequence[bytes]) -> int:
        held = self.db.find(command[1])
        number: bytes | None = self.db.get(command[1], bytes)
        value = (0 if number is None else integer_of(number)) + (integer_of(command[2]) if len(command) > 2 else 1)
        self.db.put(command[1], b"%d" % value, expires_ms=held.expires_ms if held else None)
        return value

    def delete(self, command: Sequence[bytes]) -> int:
        return sum(self.db.find(key) is not None and self.db.remove(key) for key in command[1:])

    def exists(self, command: Sequence[bytes]) -> int:
        return sum(self.db.find(key) is not None for key in command[1:])

    def pttl(self, command: Sequence[bytes]) -> int:
        held = self.db.find(command[1])
        if held is None:
            return -2
        return -1 if held.expires_ms is None else held.expires_ms - self.now_ms()

    def pexpire(self, command: Sequence[bytes]) -> int:
        return int(self.db.expire(command[1], self.now_ms() + integer_of(command[2])))

    def expire(self, command: Sequence[bytes]) -> int:
        return int(self.db.expire(command[1], self.now_ms() + 1000 * integer_of(command[2])))

    def pexpireat(self, command: Sequence[bytes]) -> int:
        return int(self.db.expire(command[1], integer_of(command[2])))

    def time(self, _: Sequence[bytes]) -> list[bytes]:
        now = self._now_us()
        return [b"%d" % (now // 1_000_000), b"%d" % (now % 1_000_000)]

    def info(self, _: Sequence[bytes]) -> bytes:
        return "".join(f"{name}:{value}\r\n" for name, value in self._about().items()).encode()

    def scan(self, command: Sequence[bytes]) -> list[Any]:
        """SCAN cursor MATCH pattern COUNT number. A key that is there all the time is found, whatever comes and goes."""
        cursor, pattern, count = integer_of(command[1]), command[3].decode(), integer_of(command[5])
        placed = sorted((int(sha(name.decode())[:12], 16), name) for name in self.db.names())
        here = [(place, name) for place, name in placed if place >= cursor]
        names = [name for _, name in here[:count] if fnmatch.fnmatchcase(name.decode(), pattern)]
        return [b"%d" % (here[count][0] if len(here) > count else 0), names]

    # Hashes.

    def hset(self, command: Sequence[bytes]) -> int:
        held: Hash | None = self.db.get(command[1], Hash)
        if held is None:
            held = Hash()
            self.db.put(command[1], held)
        before = held.fields
        held.fields = before | dict(zip(command[2::2], command[3::2], strict=True))
        self.db.undo(command[1], lambda: setattr(held, "fields", before))
        return len(held.fields) - len(before)

    def hget(self, command: Sequence[bytes]) -> bytes | None:
        held: Hash | None = self.db.get(command[1], Hash)
        return None if held is None else held.fields.get(command[2])

    def hmget(self, command: Sequence[bytes]) -> list[bytes | None]:
        return [self.hget([b"HGET", command[1], name]) for name in command[2:]]

    def hdel(self, command: Sequence[bytes]) -> int:
        held: Hash | None = self.db.get(command[1], Hash)
        if held is None:
            return 0
        before = held.fields
        held.fields = {name: value for name, value in before.items() if name not in command[2:]}
        self.db.undo(command[1], lambda: setattr(held, "fields", before))
        if not held.fields:
            self.db.remove(command[1])
        return len(before) - len(held.fields)

    # Streams.

    def xadd(self, command: Sequence[bytes]) -> bytes:
        key, at = command[1], 2
        limit: int | None = None
        if command[at].upper() == b"MAXLEN":
            at += 2 if command[at + 1] in (b"~", b"=") else 1
            limit = integer_of(command[at])
            at += 1
        asked = None if command[at] == b"*" else position_of(command[at], 0)
        if asked == (0, 0):
            raise ServerError("ERR The ID specified in XADD must be greater than 0-0")
        stream: Stream | None = self.db.get(key, Stream)
        last = stream.last if stream is not None else (0, 0)
        if asked is None:
            now = self.now_ms()
            position = (now, 0) if now > last[0] else (last[0], last[1] + 1)
        else:
            position = asked
            if last == (MAX, MAX):
                raise ServerError("ERR The stream has exhausted the last possible ID, unable to add more items")
            if position <= last:
                raise ServerError("ERR The ID specified in XADD is equal or smaller than the target stream top item")
        if stream is None:
            stream = Stream()
            self.db.put(key, stream)
        self._append(key, stream, position, list(command[at + 1 :]))
        if limit is not None:
            self._trim(key, stream, limit)
        return named(position)

    def _append(self, key: bytes, stream: Stream, position: tuple[int, int], fields: list[bytes]) -> None:
        last = stream.last

        def undo() -> None:
            del stream.entries[position]
            stream.last = last

        self.db.undo(key, undo)
        stream.entries[position] = fields
        stream.last = position

    def _trim(self, key: bytes, stream: Stream, limit: int) -> int:
        over = len(stream.entries) - limit
        if over <= 0:
            return 0
        before = stream.entries
        self.db.undo(key, lambda: setattr(stream, "entries", before))
        stream.entries = dict(list(before.items())[over:])
        return over

    def xtrim(self, command: Sequence[bytes]) -> int:
        stream: Stream | None = self.db.get(command[1], Stream)
        return 0 if stream is None else self._trim(command[1], stream, integer_of(command[-1]))

    def xlen(self, command: Sequence[bytes]) -> int:
        stream: Stream | None = self.db.get(command[1], Stream)
        return 0 if stream is None else len(stream.entries)

    def xrange(self, command: Sequence[bytes]) -> list[Any]:
        return self._range(command, edge_of(command[2], low=True), edge_of(command[3], low=False), reverse=False)

    def xrevrange(self, command: Sequence[bytes]) -> list[Any]:
        return self._range(command, edge_of(command[3], low=True), edge_of(command[2], low=False), reverse=True)

    def _range(
        self, command: Sequence[bytes], low: tuple[int, int], high: tuple[int, int], *, reverse: bool
    ) -> list[Any]:
        count = integer_of(command[5]) if len(command) > 4 else None
        stream: Stream | None = self.db.get(command[1], Stream)
        if stream is None or count == 0:
            return []
        found: list[Any] = []
        for position in reversed(stream.entries) if reverse else stream.entries:
            if low <= position <= high:
                found.append([named(position), list(stream.entries[position])])
                if len(found) == count:
                    break
        return found

    # Sorted sets.

    def zadd(self, command: Sequence[bytes]) -> int:
        key, at = command[1], 2
        only_known = only_new = only_greater = False
        while command[at].upper() in (b"XX", b"NX", b"GT"):
            only_known |= command[at].upper() == b"XX"
            only_new |= command[at].upper() == b"NX"
            only_greater |= command[at].upper() == b"GT"
            at += 1
        pairs = [(score_of(command[number]), command[number + 1]) for number in range(at, len(command), 2)]
        zset: dict[bytes, float] | None = self.db.get(key, dict)
        added = 0
        for score, member in pairs:
            known = zset is not None and member in zset
            if (only_known and not known) or (only_new and known):
                continue
            if only_greater and zset is not None and score <= zset.get(member, -math.inf):
                continue
            if zset is None:
                zset = {}
                self.db.put(key, zset)
            self._score(key, zset, member, score)
            added += not known
        return added

    def _score(self, key: bytes, zset: dict[bytes, float], member: bytes, score: float | None) -> None:
        before = zset.get(member)

        def undo() -> None:
            if before is None:
                zset.pop(member, None)
            else:
                zset[member] = before

        self.db.undo(key, undo)
        if score is None:
            del zset[member]
        else:
            zset[member] = score

    def zrem(self, command: Sequence[bytes]) -> int:
        zset: dict[bytes, float] = self.db.get(command[1], dict) or {}
        removed = [member for member in command[2:] if member in zset]
        for member in removed:
            self._score(command[1], zset, member, None)
        if removed and not zset:
            self.db.remove(command[1])
        return len(removed)

    def zscore(self, command: Sequence[bytes]) -> bytes | None:
        zset: dict[bytes, float] = self.db.get(command[1], dict) or {}
        score = zset.get(command[2])
        return None if score is None else show(score)

    def zcard(self, command: Sequence[bytes]) -> int:
        return len(self.db.get(command[1], dict) or {})

    def _sorted(self, key: bytes) -> list[tuple[float, bytes]]:
        zset: dict[bytes, float] = self.db.get(key, dict) or {}
        return sorted((score, member) for member, score in zset.items())

    def zrange(self, command: Sequence[bytes]) -> list[bytes]:
        ordered = self._sorted(command[1])
        start, stop = integer_of(command[2]), integer_of(command[3])
        start, stop = (number + len(ordered) if number < 0 else number for number in (start, stop))
        return _flat(ordered[max(0, start) : max(0, stop + 1)], scores=b"WITHSCORES" in command[4:])

    def zrangebyscore(self, command: Sequence[bytes]) -> list[bytes]:
        low, high = (bound_of(edge) for edge in command[2:4])
        found = [item for item in self._sorted(command[1]) if low <= item[0] <= high]
        options = [option.upper() for option in command[4:]]
        if b"LIMIT" in options:
            at = options.index(b"LIMIT")
            offset, count = integer_of(options[at + 1]), integer_of(options[at + 2])
            found = found[offset:] if count < 0 else found[offset : offset + count]
        return _flat(found, scores=b"WITHSCORES" in options)

    def zremrangebyscore(self, command: Sequence[bytes]) -> int:
        found = self.zrangebyscore(command)
        return self.zrem([b"ZREM", command[1], *found]) if found else 0

    # Lists.

    def lpush(self, command: Sequence[bytes]) -> int:
        items: list[bytes] = self.db.get(command[1], list) or []
        held = self.db.find(command[1])
        pushed = [*reversed(command[2:]), *items]
        self.db.put(command[1], pushed, expires_ms=held.expires_ms if held else None)
        return len(pushed)

    def lpop(self, command: Sequence[bytes]) -> bytes | None:
        items: list[bytes] | None = self.db.get(command[1], list)
        if not items:
            return None
        held = self.db.find(command[1])
        if len(items) == 1:
            self.db.remove(command[1])
        else:
            self.db.put(command[1], items[1:], expires_ms=held.expires_ms if held else None)
        return items[0]

    def llen(self, command: Sequence[bytes]) -> int:
        return len(self.db.get(command[1], list) or [])

    def ltrim(self, command: Sequence[bytes]) -> Simple:
        items: list[bytes] | None = self.db.get(command[1], list)
        start, stop = integer_of(command[2]), integer_of(command[3])
        if items is not None and stop >= 0 and (start > 0 or stop + 1 < len(items)):
            held = self.db.find(command[1])
            self.db.put(command[1], items[start : stop + 1], expires_ms=held.expires_ms if held else None)
        return OK

    def publish(self, command: Sequence[bytes]) -> int:
        return self._publish(command[1], command[2])


def _flat(items: Sequence[tuple[float, bytes]], *, scores: bool) -> list[bytes]:
    if not scores:
        return [member for _, member in items]
    return [part for score, member in items for part in (member, show(score))]


_COMMANDS: Final[dict[bytes, Command]] = {
    b"GET": Commands.get,
    b"GETRANGE": Commands.getrange,
    b"SET": Commands.set,
    b"INCR": Commands.incr,
    b"INCRBY": Commands.incr,
    b"DEL": Commands.delete,
    b"EXISTS": Commands.exists,
    b"PTTL": Commands.pttl,
    b"PEXPIRE": Commands.pexpire,
    b"EXPIRE": Commands.expire,
    b"PEXPIREAT": Commands.pexpireat,
    b"TIME": Commands.time,
    b"INFO": Commands.info,
    b"SCAN": Commands.scan,
    b"HSET": Commands.hset,
    b"HGET": Commands.hget,
    b"HMGET": Commands.hmget,
    b"HDEL": Commands.hdel,
    b"XADD": Commands.xadd,
    b"XTRIM": Commands.xtrim,
    b"XLEN": Commands.xlen,
    b"XRANGE": Commands.xrange,
    b"XREVRANGE": Commands.xrevrange,
    b"ZADD": Commands.zadd,
    b"ZREM": Commands.zrem,
    b"ZSCORE": Commands.zscore,
    b"ZCARD": Commands.zcard,
    b"ZRANGE": Commands.zrange,
    b"ZRANGEBYSCORE": Commands.zrangebyscore,
    b"ZREMRANGEBYSCORE": Commands.zremrangebyscore,
    b"LPUSH": Commands.lpush,
    b"LPOP": Commands.lpop,
    b"LLEN": Commands.llen,
    b"LTRIM": Commands.ltrim,
    b"PUBLISH": Commands.publish,
}
