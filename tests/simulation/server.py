"""The simulated server: connections, scripts, subscriptions, and a past to go back to."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import hiredis

from .commands import OK, Commands
from .database import Database
from .loop import Callback, Process
from .network import Link, Network
from .scripting import ServerError, Simple, run_script, sha

EPOCH_US: Final = 1_800_000_000_000_000
"""The server's clock when a world begins."""


class Server:
    """One Redis. Every command or script is one step: all of it happens, or nothing."""

    def __init__(self, process: Process, network: Network | None = None) -> None:
        self._process = process
        self.clock_ahead_us = 0
        self.db = Database(lambda: self.now_us() // 1000)
        self._runs = 0
        self._commands = Commands(self.db, self.now_us, self._publish, self._about)
        self._scripts: dict[bytes, str] = {}
        self._channels: dict[bytes, dict[Session, None]] = {}
        self._waiting: dict[bytes, list[Session]] = {}
        self._past: list[tuple[float, list[Callable[[], object]]]] = []
        self.after: Callable[[set[bytes]], None] | None = None
        """Called after every step that changed something, with the keys that it changed."""
        self.mutate: Callable[[str], str] = str
        """What becomes of a script that is loaded: for breaking one on purpose."""
        self.trace: Callable[[str], None] | None = None
        self.serving = ""
        """Whose command runs: the name of the process."""
        self._sessions: list[Session] = []
        self._network = network
        if network is not None:
            network.accept = self._accept

    def now_us(self) -> int:
        # A command takes time: no two of a real server's see the same microsecond.
        return EPOCH_US + int(self._process.loop.now * 1_000_000) + self.clock_ahead_us

    def tick(self) -> None:
        """A moment passes."""
        self.clock_ahead_us += 100

    def step(self, command: Sequence[bytes]) -> Any:
        """One command, as a whole. Raises: ServerError."""
        self.db.undos, self.db.touched = [], set()
        try:
            return self._execute(command)
        finally:
            self._done()

    def transaction(self, commands: Sequence[Sequence[bytes]]) -> list[Any]:
        self.db.undos, self.db.touched = [], set()
        answers: list[Any] = []
        for command in commands:
            try:
                answers.append(self._execute(command))
            except ServerError as error:
                answers.append(error)
        self._done()
        return answers

    def _done(self) -> None:
        undos, touched = self.db.undos, self.db.touched
        if not undos:
            return
        self._past.append((self._process.loop.now, undos))
        self.db.undos = []
        if self.after is not None:
            self.after(touched)
        for key in sorted(touched & self._waiting.keys()):
            self._serve_waiting(key)

    def _execute(self, command: Sequence[bytes]) -> Any:
        match command[0].upper():
            case b"EVALSHA":
                source = self._scripts.get(bytes(command[1]))
                if source is None:
                    raise ServerError("NOSCRIPT No matching script. Please use EVAL.")
                return self._run(source, command)
            case b"EVAL":
                return self._run(self._scripts[self._load(command[1])], command)
            case b"SCRIPT":
                if command[1].upper() == b"LOAD":
                    return self._load(command[2])
                self._scripts.clear()
                return OK
            case _:
                return self._commands.execute(command)

    def _run(self, source: str, command: Sequence[bytes]) -> Any:
        number = int(command[2])
        return run_script(source, command[3 : 3 + number], command[3 + number :], self._commands.execute)

    def _load(self, source: bytes) -> bytes:
        text = source.decode()
        name = sha(text)
        self._scripts[name] = self.mutate(text)
        return name

    def flush_scripts(self) -> None:
        self._scripts.clear()

    def go_back(self, seconds: float) -> int:
        """Undo what was done in the last seconds; how many steps."""
        until, undone = self._process.loop.now - seconds, 0
        while self._past and self._past[-1][0] > until:
            for undo in reversed(self._past.pop()[1]):
                undo()
            undone += 1
        self.db.undos = []
        return undone

    def restart(self) -> None:
        """Forget what lives in a process: connections, subscriptions, scripts."""
        self._runs += 1
        for session in list(self._sessions):
            session.closed()
        self._scripts.clear()

    def _about(self) -> dict[str, str]:
        # A replica that takes over is another process with other data: to who asks it is the same as this one restarted.
        return {"run_id": f"run{self._runs}", "master_replid": f"history{self._runs}"}

    # Connections.

    def _accept(self, link: Link) -> "Session":
        session = Session(self, link, self._process)
        self._sessions.append(session)
        return session

    def forget(self, session: "Session") -> None:
        if session in self._sessions:
            self._sessions.remove(session)
        for channel in list(session.channels):
            self.unsubscribe(session, channel)
        for waiting in self._waiting.values():
            if session in waiting:
                waiting.remove(session)

    def subscribe(self, session: "Session", channel: bytes) -> None:
        session.channels[channel] = None
        self._channels.setdefault(channel, {})[session] = None

    def unsubscribe(self, session: "Session", channel: bytes) -> None:
        session.channels.pop(channel, None)
        listeners = self._channels.get(channel, {})
        listeners.pop(session, None)
        if not listeners:
            self._channels.pop(channel, None)

    def _publish(self, channel: bytes, message: bytes) -> int:
        listeners = list(self._channels.get(channel, ()))
        for session in listeners:
            session.send([b"message", channel, message])
        return len(listeners)

    def wait_for(self, session: "Session", keys: Sequence[bytes]) -> None:
        for key in keys:
            self._waiting.setdefault(key, []).append(session)

    def stop_waiting(self, session: "Session") -> None:
        for waiting in self._waiting.values():
            if session in waiting:
                waiting.remove(session)

    def _serve_waiting(self, key: bytes) -> None:
        waiting = self._waiting[key]
        while waiting:
            item = self.step([b"LPOP", key])
            if item is None:
                return
            session = waiting[0]
            self.stop_waiting(session)
            session.wake([key, item])


class Session:
    """The server's end of one connection."""

    def __init__(self, server: Server, link: Link, process: Process) -> None:
        self._server, self._link, self._process = server, link, process
        self._reader: Any = hiredis.Reader()
        self._gone = False
        self._queue: list[list[bytes]] | None = None
        self._blocked: Callback | None = None
        self.channels: dict[bytes, None] = {}

    def received(self, piece: bytes) -> None:
        if not self._gone:
            self._reader.feed(piece)
            self._work()

    def closed(self) -> None:
        self._gone = True
        if self._blocked is not None:
            self._blocked.cancel()
            self._blocked = None
        self._server.forget(self)

    def send(self, answer: Any) -> None:
        self._link.answer(encode(answer))

    def wake(self, answer: Any) -> None:
        """The end of a blocking command."""
        if self._blocked is not None:
            self._blocked.cancel()
            self._blocked = None
        self.send(answer)
        self._work()

    def _work(self) -> None:
        answers: list[bytes] = []
        while self._blocked is None and (command := self._reader.gets()) is not False:
            answer = self._answer(command)
            if answer is not None:
                answers.append(answer)
        if answers:
            self._link.answer(b"".join(answers))

    def _answer(self, command: list[bytes]) -> bytes | None:
        self._server.serving = self._link.process.name
        name = command[0].upper()
        if self._queue is not None and name != b"EXEC":
            self._queue.append(command)
            return b"+QUEUED\r\n"
        try:
            match name:
                case b"MULTI":
                    self._queue = []
                    return encode(OK)
                case b"EXEC":
                    queued, self._queue = self._queue or [], None
                    return encode(self._server.transaction(queued))
                case b"SUBSCRIBE":
                    return b"".join(map(self._subscribe, command[1:]))
                case b"UNSUBSCRIBE":
                    return b"".join(map(self._unsubscribe, command[1:] or [*self.channels]))
                case b"PING":
                    return encode([b"pong", b""] if self.channels else Simple(b"PONG"))
                case b"CLIENT" | b"SELECT":
                    return encode(OK)
                case b"BLPOP":
                    return self._block(command[1:-1], float(command[-1]))
                case _:
                    answer = self._server.step(command)
                    if self._server.trace is not None:
                        self._server.trace(f"{self._link.process.name}: {_short(command)} -> {_short(answer)}")
                    return encode(answer)
        except ServerError as error:
            return encode(error)

    def _subscribe(self, channel: bytes) -> bytes:
        self._server.subscribe(self, channel)
        return encode([b"subscribe", channel, len(self.channels)])

    def _unsubscribe(self, channel: bytes) -> bytes:
        self._server.unsubscribe(self, channel)
        return encode([b"unsubscribe", channel, len(self.channels)])

    def _block(self, keys: Sequence[bytes], seconds: float) -> bytes | None:
        for key in keys:
            item = self._server.step([b"LPOP", key])
            if item is not None:
                return encode([key, item])
        self._server.wait_for(self, keys)
        self._blocked = self._process.later(seconds, self._waited)
        return None

    def _waited(self) -> None:
        self._blocked = None
        self._server.stop_waiting(self)
        self._link.answer(b"*-1\r\n")
        self._work()


def _short(words: Any) -> str:
    return str(words).replace("b'", "'")[:300]


def encode(answer: Any) -> bytes:
    """An answer as RESP2."""
    if isinstance(answer, Simple):
        return b"+%b\r\n" % answer
    if isinstance(answer, bytes):
        return b"$%d\r\n%b\r\n" % (len(answer), answer)
    if isinstance(answer, int):
        return b":%d\r\n" % answer
    if answer is None:
        return b"$-1\r\n"
    if isinstance(answer, list):
        return b"*%d\r\n%b" % (len(answer), b"".join(map(encode, answer)))  # pyright: ignore[reportUnknownArgumentType]  # foreign
    if isinstance(answer, ServerError):
        return b"-%b\r\n" % str(answer).encode()
    raise AssertionError(f"no answer: {answer!r}")
