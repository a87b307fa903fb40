"""The protocol with one rule broken: each of these must be noticed by the simulation, or the simulation sees nothing."""

# pyright: reportPrivateUsage=false
# A mutant is the real thing with one line changed: it uses what that uses.

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from unittest.mock import patch

from tailrace.consumer.ear import Ear
from tailrace.joblog import Broker, Claim
from tailrace.schemas import END, Entry
from tailrace.worker.log_writer import LogWriter
from tailrace.worker.memory import Line, Memory
from tailrace.worker.scrub import Scrub
from tailrace.worker.splice import Splice
from tailrace.worker.sweep import Swept


@dataclass(frozen=True)
class InLua:
    """Texts of scripts and what stands there instead."""

    changes: tuple[tuple[str, str], ...]
    theme: str | None
    """What worlds it is to be noticed in; None: any."""
    apart: bool = False
    """Whether in worlds with two servers."""

    def __call__(self, source: str) -> str:
        for text, instead in self.changes:
            source = source.replace(text, instead)
        return source


@dataclass(frozen=True)
class InPython:
    """What is replaced, and with what."""

    changes: tuple[tuple[str, Any], ...]
    theme: str | None
    apart: bool = False

    @contextmanager
    def applied(self) -> Generator[None]:
        patches = [patch(target, new) for target, new in self.changes]
        for one in patches:
            one.start()
        try:
            yield
        finally:
            for one in patches:
                one.stop()


def _lua(*changes: tuple[str, str], theme: str | None = None, apart: bool = False) -> InLua:
    return InLua(changes, theme, apart)


def _python(*changes: tuple[str, Any], theme: str | None = None, apart: bool = False) -> InPython:
    return InPython(changes, theme, apart)


def _replay_once(writer: LogWriter, claimed: Claim) -> None:
    """As `LogWriter.go_on`, but what was said again is not remembered: a second loss loses it."""
    again = writer.memory.go_back(claimed.after) or []
    if writer in _REPLAYED:
        again = []
    _REPLAYED.append(writer)
    writer.pending = [*again, *writer.sent, *writer.pending]
    writer.sent, writer.lost = [], False
    writer.epoch, writer.seq, writer.top = claimed.epoch, 0, claimed.position
    writer._began(claimed)
    writer._moved.set()


_REPLAYED: Final[list[LogWriter]] = []


def _blindly(writer: LogWriter) -> None:
    """As `LogWriter.acknowledged`, but nothing is kept to be said again."""
    for line in writer.sent:
        writer.top = line.position or writer.top
        writer._characters -= len(line.text)
    writer.seq += len(writer.sent)
    writer.sent = []
    writer._moved.set()


def _never_again(relay: Any, writers: Any, _error: Exception) -> None:
    """As `Lane._later`, but what was not answered counts as written."""
    for writer in writers:
        if writer.refusal is None:
            writer.acknowledged()


def _nothing_lost(_memory: Memory, _after: str) -> list[Line]:
    return []


def _all_is_new(_splice: Splice, line: Line) -> list[Line]:
    return [line]


def _deaf(ear: Ear, message: object) -> None:
    """As `Ear._take`, but a reader is not told that it was cut off."""
    match message:
        case [b"subscribe", bytes(name), int()]:
            channel = ear.channels.get(name.decode())
            if channel is not None:
                channel.confirmed.set()
        case _:
            _TAKE(ear, message)


_TAKE: Final = Ear._take


async def _nothing(*_: object, **__: object) -> None:
    return None


async def _none(*_: object, **__: object) -> int:
    return 0


async def _only_once(scrub: Scrub, walk: Any, at: Any, part: Broker) -> None:
    """As `Scrub._step`, but a server whose first keys were looked at is done."""
    await _STEP(scrub, walk, at, part)
    at.done = True


_STEP: Final = Scrub._step


async def _nothing_open(*_: object, **__: object) -> Swept:
    return Swept()


def _takes_anything(cursor: Any, _after: str, entries: list[Entry]) -> list[Entry]:
    cursor.last = entries[-1].position
    cursor.ended = cursor.last == END
    return entries


MUTANTS: Final[dict[str, InLua | InPython]] = {
    # The log.
    "an append does not compare": _lua(("if found ~= ARGV[2] then", "if false then"), theme="loss"),
    "a claim counts up instead of asking for the time": _lua(
        ("math.max(now, known + 1) + tonumber(ARGV[5])", "stands + 1"),
        theme="loss",
    ),
    "a seal is a status, not the last id": _lua(
        (
            f"redis.call('XADD', log, '{END}', 'end', value)",
            "redis.call('SET', KEYS[2] .. ':status', value, 'PX', 99999)",
        ),
        ("  if id then return id == '" + END + "' end", "  if id then return false end"),
    ),
    "an end is an entry like any other": _lua(
        (
            f"redis.call('XADD', log, '{END}', 'end', value)",
            "local e, s = seq_order(found)\n"
            "  redis.call('XADD', log, string.format('%.0f-%.0f', e, s + 1), 'end', value)",
        ),
    ),
    "a claim does not say after what": _lua(('\'{"after":"\' .. id', "'{\"after\":\"' .. '0-1'")),
    "an append does not find itself": _lua(("if found == last then return {'ok'} end", ""), theme="network"),
    "an append calls a newer attempt a loss": _lua(
        ("if found_epoch > own_epoch then return {'fenced', found} end", ""),
        ("if stands > known then return {'fenced', id} end", ""),
        theme="zombies",
    ),
    "a seal does not compare": _lua(("if ARGV[2] ~= '' and found ~= ARGV[2] then", "if false then"), theme="loss"),
    # The queue.
    "a lease is no lease": _lua(
        ("redis.call('ZADD', queue, 'XX', string.format('%.0f', deadline), id)", ""),
        (
            "redis.call('SET', in_progress, token, 'NX', 'PX', lease)",
            "redis.call('SET', in_progress, token, 'PX', lease)",
        ),
    ),
    "submit forgets to queue": _lua(("redis.call('ZADD', queue, string.format('%.0f', due_ms), id)", "")),
    # The worker.
    "a replay cannot be restarted": _python(("tailrace.worker.log_writer.LogWriter.go_on", _replay_once), theme="loss"),
    "a writer remembers nothing": _python(
        ("tailrace.worker.log_writer.LogWriter.acknowledged", _blindly), theme="loss"
    ),
    "what was not answered counts as written": _python(
        ("tailrace.worker.lane.Lane._later", _never_again), theme="network"
    ),
    "an attempt does not look after what it comes": _python(
        ("tailrace.worker.memory.Memory.go_back", _nothing_lost), theme="loss"
    ),
    "a new attempt does not splice": _python(("tailrace.worker.splice.Splice.feed", _all_is_new), theme="deaths"),
    "a hand-off does not look at the log": _lua(
        ("if redis.call('EXISTS', log) == 1 and not sealed() then return 'open' end", ""),
        ("if trimmed ~= '1' and redis.call('XLEN', log) > 0 and redis.call('PTTL', log) > 0", "if false"),
        theme="loss",
    ),
    "nobody sweeps": _python(("tailrace.worker.sweep.sweep", _nothing_open), theme="loss"),
    # The readers.
    "a reader takes what it hears": _python(("tailrace.joblog.cursor.Cursor.take_live", _takes_anything)),
    "a reader neither looks nor is told": _python(
        ("tailrace.consumer.ear.Ear._look_around", _nothing),
        ("tailrace.consumer.ear.Ear._take", _deaf),
        theme="network",
    ),
    # Two servers.
    "a submit does not say first what it is about to store": _lua(
        ("redis.call('ZADD', KEYS[1], 'NX', math.floor(now_us() / 1000) + tonumber(ARGV[2]), ARGV[1])", ""), apart=True
    ),
    "a hand-off does not note what is to be looked at again": _lua(
        ("redis.call('ZADD', KEYS[3], math.floor(now_us() / 1000) + tonumber(ARGV[3]), ARGV[6])", ""),
        theme="loss",
        apart=True,
    ),
    "nobody looks again at what was handed off": _python(
        ("tailrace.worker.sweep.reopen_handed_off", _none), theme="loss", apart=True
    ),
    "the index forgets a job whose log is open": _lua(("return over()", "return 2"), apart=True),
    # The scrub.
    "nobody scrubs": _python(("tailrace.worker.app.scrub_for_ever", _nothing), theme="loss", apart=True),
    "the scrub skips jobs that wait": _lua(
        ("'open' or 'begun', ttl, ''", "'gone' or 'begun', ttl, ''"), theme="loss", apart=True
    ),
    "the scrub skips jobs that have begun": _lua(
        ("'open' or 'begun', ttl, ''", "'open' or 'gone', ttl, ''"), theme="loss", apart=True
    ),
    "the scrub skips ends that nobody settled": _lua(
        ("return {'ended', ttl, ''}", "return {'gone', ttl, ''}"), theme="loss", apart=True
    ),
    "the scrub skips ends that nobody told of": _lua(
        ("return {'settled', ttl", "return {'gone', ttl"), theme="loss", apart=True
    ),
    "a walk is through after its first step": _python(
        ("tailrace.worker.scrub.Scrub._step", _only_once), theme="loss", apart=True
    ),
    "whoever looks again looks for open logs only": _lua(
        (
            "if sealed() and (redis.call('XLEN', log) == 0 or not job()) then return 0 end",
            "if sealed() then return 0 end",
        ),
        theme="loss",
        apart=True,
    ),
    "a job that is forgotten is not looked at again": _lua(
        ("if known and not redis.call('ZSCORE', KEYS[1], ARGV[1]) then", "if false then"), apart=True
    ),
}
