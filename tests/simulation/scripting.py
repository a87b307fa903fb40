"""The Lua scripts as Redis runs them, in the Lua of the lupa package (5.1, as in Redis). Compiled once a process."""

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from lupa import lua51  # type: ignore[import-untyped]  # it has no types

Call = Callable[[list[bytes]], Any]
Script = Callable[[list[bytes], list[bytes], Call], Any]


class ServerError(Exception):
    """An error answer; its text begins with the code."""


class Simple(bytes):
    """A status answer (+OK)."""


class _Interpreter:
    """One Lua state for all servers: scripts keep nothing between calls."""

    def __init__(self) -> None:
        runtime: Any = lua51.LuaRuntime
        self.lua: Any = runtime(encoding=None, unpack_returned_tuples=False)
        self.call: Call | None = None
        self._table: Any = self.lua.table_from
        globals_: Any = self.lua.globals()
        redis: Any = self.lua.table()
        redis[b"call"], redis[b"pcall"] = self._call, self._pcall
        cjson: Any = self.lua.table()
        cjson[b"decode"] = self._decode
        globals_[b"redis"], globals_[b"cjson"] = redis, cjson
        self._compiled: dict[str, Any] = {}

    def run(self, source: str, keys: list[bytes], args: list[bytes], call: Call) -> Any:
        function = self._compiled.get(source)
        if function is None:
            body = source.partition("\n")[2] if source.startswith("#!") else source
            function = self._compiled[source] = self.lua.execute(f"return function(KEYS, ARGV)\n{body}\nend")
        before, self.call = self.call, call
        try:
            return self._from_lua(function(self._table(keys), self._table(args)))
        finally:
            self.call = before

    def _call(self, *command: Any) -> Any:
        assert self.call is not None
        return self._to_lua(self.call([_argument(part) for part in command]))

    def _pcall(self, *command: Any) -> Any:
        try:
            return self._call(*command)
        except ServerError as error:
            return self.lua.table_from({b"err": str(error).encode()})

    def _decode(self, text: bytes) -> Any:
        return self._json(json.loads(text))

    def _json(self, value: Any) -> Any:
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, dict):
            fields = cast("dict[str, Any]", value)
            return self._table({key.encode(): self._json(item) for key, item in fields.items()})
        if isinstance(value, list):
            return self._table([self._json(item) for item in value])  # pyright: ignore[reportUnknownVariableType]  # foreign
        return value

    def _to_lua(self, answer: Any) -> Any:
        if isinstance(answer, Simple):
            return self._table({b"ok": bytes(answer)})
        if isinstance(answer, list):
            return self._table([self._to_lua(item) for item in answer])  # pyright: ignore[reportUnknownVariableType]  # foreign
        return False if answer is None else answer

    def _from_lua(self, value: Any) -> Any:
        if isinstance(value, bool):
            return 1 if value else None
        if isinstance(value, int | float):
            return int(value)
        if value is None or isinstance(value, bytes):
            return value
        if lua51.lua_type(value) == "table":
            if (error := value[b"err"]) is not None:
                raise ServerError(error.decode())
            if (status := value[b"ok"]) is not None:
                return Simple(status)
            items: list[Any] = []
            number = 1
            while (item := value[number]) is not None:
                items.append(self._from_lua(item))
                number += 1
            return items
        raise AssertionError(f"a script returned {value!r}")


def _argument(part: Any) -> bytes:
    if isinstance(part, bytes):
        return part
    if isinstance(part, bool) or not isinstance(part, int | float):
        raise ServerError("ERR Lua redis lib command arguments must be strings or integers")
    # As Lua 5.1 prints a number.
    return b"%.17g" % part


@functools.cache
def _interpreter() -> _Interpreter:
    return _Interpreter()


def run_script(source: str, keys: Sequence[bytes], args: Sequence[bytes], call: Call) -> Any:
    """The answer of a script. Raises: ServerError; whatever `call` raises."""
    return _interpreter().run(source, list(keys), list(args), call)


_SHAS: Final[dict[str, bytes]] = {}


def sha(source: str) -> bytes:
    known = _SHAS.get(source)
    if known is None:
        known = _SHAS[source] = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest().encode()
    return known
