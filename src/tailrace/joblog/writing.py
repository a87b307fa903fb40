"""Writing to a job's log: claim, append, seal, erase, snapshot. One call is one script; each may be sent again.

What an answer means to a writer:

    Fenced   a newer attempt writes now: stop at once, touch nothing
    Sealed   the job ended (or was cancelled, or erased): stop
    Gone     no such log, or another incarnation under the same id: stop, never create it again
    Lost     the server went back in time: claim again and replay what it lost
"""

import json
import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from tailrace.joblog import lua
from tailrace.joblog.connections import Broker, Script
from tailrace.joblog.translation import Word
from tailrace.joblog.wire import pack_words
from tailrace.schemas import EndRecord, ErrorDetail, JobNotFound, JsonObject, Keys, Position, Status, Timings
from tailrace.schemas.positions import END, START

logger = logging.getLogger(__name__)

#: Words of an append before its pairs.
_APPEND_WORDS: Final = 9

CLAIM: Final = Script(lua.CLAIM)
APPEND: Final = Script(lua.APPEND)
SEAL: Final = Script(lua.SEAL, allow_oom=True)
ERASE: Final = Script(lua.ERASE, allow_oom=True)
SNAPSHOT: Final = Script(lua.SNAPSHOT)
HAND_OFF: Final = Script(lua.HAND_OFF, allow_oom=True)
STANDING: Final = Script(lua.STANDING)
TELL: Final = Script(lua.TELL, allow_oom=True)

#: A replica that takes over may lack what its primary wrote in the last moment, or while it was cut off.
STANDS_MS: Final = 60_000


class LogRefusal(Exception):  # an answer, not a fault
    """The log did not take it."""


class Fenced(LogRefusal):
    """A newer attempt has claimed the log."""


class Sealed(LogRefusal):
    """The log has its end already."""


class Gone(LogRefusal):
    """There is no such log any more."""


class Lost(LogRefusal):
    """The server lost the last records; the log stands at `.top`."""

    def __init__(self, top: Position) -> None:
        super().__init__(top)
        self.top = top


class Claim(NamedTuple):
    """A claimed log: the attempt record's position, and the top before it."""

    position: Position
    after: Position

    @property
    def epoch(self) -> int:
        return int(self.position.partition("-")[0])


class Ending(NamedTuple):
    """What a seal did: whether it was this one, and the end record that stands."""

    ours: bool
    end: EndRecord | None


@dataclass(frozen=True, slots=True)
class End:
    """How a job ends, before the log adds where and when."""

    status: Status
    finish_reason: str | None = None
    usage: JsonObject | None = None
    error: ErrorDetail | None = None
    attempts: int | None = None
    timings: Timings | None = None

    def value(self) -> str:
        record = EndRecord(
            status=self.status,
            last=START,
            ts=0,
            finish_reason=self.finish_reason,
            usage=self.usage,
            error=self.error,
            attempts=self.attempts,
            timings=self.timings,
        )
        return record.model_dump_json(exclude={"position", "kind", "last", "ts"}, exclude_none=True)


async def claim(
    broker: Broker,
    keys: Keys,
    job_id: str,
    *,
    incarnation: str,
    attempt: int,
    worker: str,
    known_epoch: int | None = None,
    replay: bool = False,
) -> Claim:
    """Write the next attempt record: from now on only the holder of this claim can append.

    `known_epoch`: the last one that the claimer knows of; without it the log is claimed whatever stands.
    Raises: Fenced if there is a newer one, Sealed, Gone, BrokerUnavailable, BrokerUnsuitable.
    """
    nonce = secrets.token_hex(8)
    record: dict[str, Any] = {
        "attempt": attempt,
        "worker": worker,
        "nonce": nonce,
        "incarnation": incarnation,
        "replay": replay,
    }
    answer = await broker.run(
        CLAIM,
        [keys.log(job_id)],
        [
            keys.live(job_id),
            nonce,
            incarnation,
            "" if known_epoch is None else known_epoch,
            secrets.randbelow(1024),
            json.dumps(record),
        ],
    )
    refuse(answer)
    return Claim(Position(answer[1].decode()), Position(answer[2].decode()))


def append_command(
    keys: Keys, job_id: str, *, top: Position, incarnation: str, epoch: int, seq: int, pairs: Sequence[str]
) -> list[Word]:
    """The command that appends `pairs` (field, value, field, value ...) as `<epoch>-<seq>` and following.

    Its answer goes through `refuse`.
    """
    return [
        "EVALSHA", APPEND.sha, 1, keys.log(job_id), keys.live(job_id), top, incarnation, str(epoch), seq, *pairs,
    ]  # fmt: skip


class Appends:
    """The appends of one attempt, packed for a `Pipe`: what does not change from one to the next is packed once."""

    def __init__(self, keys: Keys, job_id: str, incarnation: str, script: Script = APPEND) -> None:
        """`script`: its form for the servers (`Broker.form`)."""
        self._head = pack_words(["EVALSHA", script.sha, 1, keys.log(job_id), keys.live(job_id)])
        self._incarnation = pack_words([incarnation])

    def command(self, pairs: Sequence[str], *, top: Position, epoch: int, seq: int) -> bytes:
        """As `append_command`, packed."""
        raw_top = top.encode()
        return b"*%d\r\n%b$%d\r\n%b\r\n%b%b" % (
            _APPEND_WORDS + len(pairs),
            self._head,
            len(raw_top),
            raw_top,
            self._incarnation,
            pack_words((epoch, seq, *pairs)),
        )


async def seal(
    broker: Broker,
    keys: Keys,
    job_id: str,
    end: End,
    *,
    top: Position | None = None,
    incarnation: str | None = None,
    erase: bool = False,
) -> Ending:
    """Write the end record, whoever asks; the first one stands. With `top` only if the log stands there.

    Raises: Gone; with `top` also Fenced and Lost.
    """
    answer = await broker.run(
        SEAL,
        [keys.log(job_id), keys.request(job_id)],
        [keys.live(job_id), top or "", incarnation or "", end.value(), job_id, "1" if erase else "0"],
    )
    word = answer[0]
    if word in (b"ok", b"sealed"):
        if not answer[2]:
            return Ending(ours=False, end=None)
        fields = json.loads(answer[2])
        return Ending(ours=word == b"ok", end=EndRecord.model_validate({**fields, "position": END}))
    refuse(answer)
    raise AssertionError(answer)


async def erase(broker: Broker, keys: Keys, job_id: str) -> bool:
    """Remove everything of a job that has ended; its id stays taken until its time is over. False if it has not ended.

    Raises: JobNotFound.
    """
    answer = await broker.run(ERASE, [keys.log(job_id), keys.request(job_id), keys.snapshot(job_id)], [])
    if answer[0] == b"gone":
        raise JobNotFound(job_id)
    return bool(answer[0] == b"ok")


async def store_snapshot(
    broker: Broker, keys: Keys, job_id: str, *, incarnation: str, blob: bytes, end: str = ""
) -> bool:
    """Put a sealed log's snapshot in its place. False if there is nothing (left) to do.

    `end`: the value of the end record in the snapshot; with it nothing is done if the log has another one by now.
    """
    answer = await broker.run(SNAPSHOT, [keys.log(job_id), keys.snapshot(job_id)], [incarnation, blob, end])
    return bool(answer[0] == b"ok")


async def hand_off(
    broker: Broker,
    keys: Keys,
    job_id: str,
    status: Status,
    *,
    ttl_ms: int,
    trimmed: bool = False,
    told: Mapping[str, str] | None = None,
) -> bool:
    """Take a finished job out of the index of open ones and tell those who wait for ends; `told`: more fields of its entry.

    False if the server lost its end or its snapshot: it is open again, or still to be replaced. `trimmed`: no snapshot can
    be made of it, it goes without.
    """
    fields = {"job": job_id, "status": status.value, **(told or {})}
    words = [word for field in fields.items() for word in field]
    stream, bounds = keys.ended_of(job_id), [keys.ended_kept, keys.ended_limit]
    whole = "1" if trimmed else "0"
    if broker.apart:
        answer = await broker.run(STANDING, [keys.log(job_id)], [whole])
        if answer[0] == b"ok":
            names = [keys.open, stream, keys.handed]
            told_of = keys.handed_as(job_id, (told or {}).get("at", ""))
            answer = await broker.queue.run(TELL, names, [job_id, ttl_ms, STANDS_MS, *bounds, told_of, *words])
    else:
        names = [keys.log(job_id), keys.open, stream]
        answer = await broker.run(HAND_OFF, names, [job_id, ttl_ms, whole, *bounds, *words])
    if answer[0] == b"ok" and answer[1]:
        logger.warning(
            "hand-off: %d ended jobs were dropped from %r although a group had not acknowledged them: "
            "it is behind by ended_limit = %d (is one read no more? XGROUP DESTROY it)",
            answer[1],
            stream,
            keys.ended_limit,
        )
    return bool(answer[0] == b"ok")


def refuse(answer: Sequence[bytes]) -> None:
    """Raises the refusal that a script's answer names; nothing for `ok` and `claimed`."""
    match answer[0]:
        case b"ok" | b"claimed":
            return
        case b"fenced":
            raise Fenced
        case b"sealed":
            raise Sealed
        case b"gone":
            raise Gone
        case b"lost":
            raise Lost(Position(answer[1].decode()))
        case other:
            raise AssertionError(f"the log answered {other!r}")
