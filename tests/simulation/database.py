"""What a Redis holds: keys with times to live, and every change so that it can be undone (a server that went back)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from .scripting import ServerError

WRONG_TYPE: Final = "WRONGTYPE Operation against a key holding the wrong kind of value"


@dataclass(slots=True)
class Stream:
    entries: dict[tuple[int, int], list[bytes]] = field(default_factory=dict[tuple[int, int], list[bytes]])
    """In order. Fields and values as they came."""
    last: tuple[int, int] = (0, 0)


@dataclass(slots=True)
class Hash:
    fields: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])


Zset: TypeAlias = dict[bytes, float]
Value: TypeAlias = bytes | Stream | Hash | Zset | list[bytes]


@dataclass(slots=True)
class _Held:
    value: Any
    expires_ms: int | None = None


class Database:
    """Keys. `now_ms` is the server's clock. Whoever changes a value in place calls `undo` with how to take it back."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._held: dict[bytes, _Held] = {}
        self.undos: list[Callable[[], object]] = []
        """Of the command that runs now."""
        self.touched: set[bytes] = set()

    def find(self, key: bytes) -> _Held | None:
        held = self._held.get(key)
        if held is not None and held.expires_ms is not None and held.expires_ms <= self._now_ms():
            self.remove(key)
            return None
        return held

    def get(self, key: bytes, kind: type[Any]) -> Any:
        """The value, or None. Raises: ServerError if it is of another kind."""
        held = self.find(key)
        if held is None:
            return None
        if not isinstance(held.value, kind):
            raise ServerError(WRONG_TYPE)
        return held.value

    def put(self, key: bytes, value: Value, *, expires_ms: int | None = None) -> None:
        """A new value, with a time to live of its own."""
        before = self._held.get(key)
        self.undo(key, lambda: self._restore(key, before))
        self._held[key] = _Held(value, expires_ms)

    def remove(self, key: bytes) -> bool:
        before = self._held.pop(key, None)
        if before is not None:
            self.undo(key, lambda: self._restore(key, before))
        return before is not None

    def expire(self, key: bytes, at_ms: int) -> bool:
        held = self.find(key)
        if held is None:
            return False
        before = held.expires_ms
        self.undo(key, lambda: setattr(held, "expires_ms", before))
        held.expires_ms = at_ms
        if at_ms <= self._now_ms():
            self.remove(key)
        return True

    def undo(self, key: bytes, how: Callable[[], object]) -> None:
        self.undos.append(how)
        self.touched.add(key)

    def names(self) -> list[bytes]:
        return [key for key in list(self._held) if self.find(key) is not None]

    def _restore(self, key: bytes, before: _Held | None) -> None:
        if before is None:
            self._held.pop(key, None)
        else:
            self._held[key] = before
