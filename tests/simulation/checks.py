"""What must hold: after every step of the server, and when all is over."""

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from tailrace.joblog import decode_snapshot
from tailrace.schemas import END, FIRST, Entry, Keys, Position, parse_position
from tailrace.views import TextView

from .database import Database, Stream
from .plan import QUEUES, Moment
from .server import Server
from .upstream import Call


@dataclass
class Log:
    """One job's log as the checks have seen it grow."""

    job_id: str
    entries: list[Entry] = field(default_factory=list[Entry])
    emptied: bool = False
    vanished: bool = False
    attempts: set[str] = field(default_factory=set[str])
    """Nonces of all claims that began an upstream call, those included that the server lost."""
    epochs: dict[int, str] = field(default_factory=dict[int, str])
    """The nonce behind every epoch that was ever given."""
    ended: list[list[Entry]] = field(default_factory=list[list[Entry]])
    """What stood whenever an end was written, ends included that the server lost: who read one then is not told again."""
    incarnations: set[str] = field(default_factory=set[str])

    @property
    def end(self) -> dict[str, object] | None:
        if self.entries and self.entries[-1].position == END:
            fields: dict[str, object] = json.loads(self.entries[-1].value)
            return fields
        return None

    @property
    def writer(self) -> str:
        """The worker of the last attempt."""
        return str(next(json.loads(e.value)["worker"] for e in reversed(self.entries) if e.field == "attempt"))

    @property
    def prompt(self) -> str:
        return str(json.loads(self.entries[0].value)["metadata"]["prompt"])


def queued(db: Database, keys: Keys) -> set[bytes]:
    """What is in any queue."""
    found: list[dict[bytes, float]] = [db.get(keys.queue_of(name).encode(), dict) or {} for name in QUEUES]
    return {queued_id for queue in found for queued_id in queue}


class Watch:
    """Looks at every log after every step."""

    def __init__(self, server: Server, queue: Server, keys: Keys, job_ids: Iterable[str], calls: list[Call]) -> None:
        """`queue`: the queue's server, which may be the same."""
        self._server, self._queue, self._calls = server, queue, calls
        self.logs = {job_id: Log(job_id) for job_id in job_ids}
        self._keys = keys
        self._of_key = {keys.log(job_id).encode(): log for job_id, log in self.logs.items()}
        self.counts: Counter[str] = Counter()
        """How often what was written or lost: a simulation in which nothing happens proves nothing."""
        self.on_moment: Callable[[Moment], None] = _do_nothing
        self._queue_keys = {keys.queue_of(name).encode() for name in QUEUES}
        self.rolled_back = 0
        self.queue_rolled_back = 0
        """Where it is another server."""
        server.after = self.look
        if queue is not server:
            server.after, queue.after = self.look_apart, self._look_at_index

    def look(self, touched: set[bytes]) -> None:
        self._look_at_logs(touched)
        if self._queue_keys & touched and not self.rolled_back:
            there = queued(self._server.db, self._keys)
            for log in self.logs.values():
                if log.entries and log.end is None:
                    assert self._keys.queued(log.job_id).encode() in there, f"{log.job_id} is open, but not queued"

    def look_apart(self, touched: set[bytes]) -> None:
        """The same where the queue is elsewhere: no step has both."""
        self._look_at_logs(touched)
        self._look_at_index(touched)

    def _look_at_logs(self, touched: set[bytes]) -> None:
        for key in touched & self._of_key.keys():
            self._look(key, self._of_key[key])

    def _look_at_index(self, touched: set[bytes]) -> None:
        """Of two servers that lost nothing, the queue's knows every job whose end is not told."""
        if self._keys.ended.encode() in touched:
            self.counts["told"] += 1
            self.on_moment("told")
        if self.rolled_back or self.queue_rolled_back:
            return
        index: dict[bytes, float] = self._queue.db.get(self._keys.open.encode(), dict) or {}
        again: dict[bytes, float] = self._queue.db.get(self._keys.handed.encode(), dict) or {}
        there = {*index, *(entry.partition(b":")[0] for entry in again)}
        for log in self.logs.values():
            if log.entries and not log.emptied:
                assert log.job_id.encode() in there, f"{log.job_id} has not ended, but nobody will look at it"

    def told(self, log: Log) -> bool:
        """Whether the hand-off has told of the end that stands; if both servers lost something, of any end of this job: whoever
        looks through the logs does not see which one was told."""
        stream: Stream | None = self._queue.db.get(self._keys.ended_of(log.job_id).encode(), Stream)
        end = log.end
        if stream is None or end is None:
            return False
        incarnation = json.loads(log.entries[0].value)["incarnation"]
        wanted = {"job": log.job_id, "incarnation": incarnation}
        if not (self.rolled_back and self.queue_rolled_back):
            wanted["status"] = str(end["status"])
        told = ([word.decode() for word in words] for words in stream.entries.values())
        return any(wanted.items() <= dict(zip(words[::2], words[1::2], strict=True)).items() for words in told)

    def queue_went_back(self) -> None:
        self.queue_rolled_back += 1
        self.counts["queue losses"] += 1

    def went_back(self) -> None:
        """The server lost its tail: what stands is read anew, and must have stood before."""
        self.rolled_back += 1
        self.counts["losses"] += 1
        for key, log in self._of_key.items():
            before = log.entries
            stream: Stream | None = self._server.db.get(key, Stream)
            if stream is None:
                log.vanished = log.vanished or bool(log.entries)
                log.entries, log.emptied = [], False
            elif stream.entries:
                entries = _entries(stream)
                assert log.entries[: len(entries)] == entries, "the server went back to what never was"
                log.entries, log.emptied = entries, False
            gone = before[len(log.entries) :]
            self.counts["chunks lost"] += sum(entry.field == "chunk" for entry in gone)
            self.counts["ends lost"] += any(entry.field == "end" for entry in gone)
            self.counts["jobs lost"] += bool(before) and not log.entries

    def _look(self, key: bytes, log: Log) -> None:
        stream: Stream | None = self._server.db.get(key, Stream)
        if stream is None:
            log.entries, log.emptied, log.vanished = [], False, True
            return
        if not stream.entries:
            if not log.emptied:
                self._emptied(log)
                self.on_moment("emptied")
            return
        assert not log.emptied, "an emptied log was written to"
        known = len(log.entries)
        new = _entries(stream, known)
        assert len(stream.entries) == known + len(new)
        for entry in new:
            self._check(log, entry)
            log.entries.append(entry)
        log.vanished = False

    def _emptied(self, log: Log) -> None:
        assert log.end is not None, "an open log was emptied"
        log.emptied = True
        blob = self._server.db.get(self._keys.snapshot(log.job_id).encode(), bytes)
        if blob is not None:
            assert decode_snapshot(log.job_id, blob) == log.entries, "the snapshot is not what stood"

    def _check(self, log: Log, entry: Entry) -> None:
        before = log.entries[-1] if log.entries else None
        self.counts[entry.field] += 1
        if before is None:
            assert (entry.position, entry.field) == (FIRST, "job"), f"{entry} begins a log"
            log.incarnations.add(json.loads(entry.value)["incarnation"])
            return
        assert before.position != END, f"{entry} after the end"
        epoch, seq = parse_position(entry.position)
        if entry.field == "attempt":
            self._check_attempt(log, entry, before, epoch, seq)
        elif entry.field == "end":
            assert entry.position == END, f"an end that seals nothing: {entry}"
            assert json.loads(entry.value)["last"] == before.position, "an end does not say what stands"
            log.ended.append([*log.entries, entry])
            self.on_moment("ended")
            assert self.rolled_back or len(log.ended) <= len(log.incarnations), "two ends"
            self._check_text(log.ended[-1])
        else:
            assert parse_position(before.position) == (epoch, seq - 1), f"a hole between {before} and {entry}"
            assert self._server.serving == log.writer, f"{self._server.serving} writes into the attempt of {log.writer}"

    def _check_attempt(self, log: Log, entry: Entry, before: Entry, epoch: int, seq: int) -> None:
        record, job = json.loads(entry.value), json.loads(log.entries[0].value)
        assert seq == 0
        assert record["after"] == before.position, "an attempt does not say what stands"
        assert record["incarnation"] == job["incarnation"], "a writer of another incarnation"
        assert record["attempt"] <= job["max_attempts"], "more attempts than allowed"
        assert not record["replay"] or self.rolled_back, "a replay, but nothing was lost"
        assert not any(
            known.field == "attempt" and json.loads(known.value)["nonce"] == record["nonce"] for known in log.entries
        ), "one claim, two attempts"
        assert epoch > parse_position(before.position)[0]
        assert log.epochs.setdefault(epoch, record["nonce"]) == record["nonce"], "two claims got one epoch"
        self.counts["replay"] += record["replay"]
        self.counts["replay of a replay"] += record["replay"] and before.field != "job" and len(log.epochs) > 2
        if not record["replay"]:
            log.attempts.add(record["nonce"])

    def _check_text(self, entries: Sequence[Entry]) -> None:
        """What stands at the end is the beginning of one upstream answer; of a completed job, all of one."""
        prompt = str(json.loads(entries[0].value)["metadata"]["prompt"])
        text = text_of(entries)
        calls = [call for call in self._calls if call.prompt == prompt]
        if json.loads(entries[-1].value)["status"] == "completed":
            assert any(call.complete and call.text == text for call in calls), f"completed with {text!r}"
        else:
            assert not text or any(call.text.startswith(text) for call in calls), f"nobody said {text!r}"


def _do_nothing(_: Moment) -> None: ...


def text_of(entries: Sequence[Entry]) -> str:
    """The text that stands."""
    view = TextView()
    return "".join(str(item) for item in view.feed(entries))


def _entries(stream: Stream, start: int = 0) -> list[Entry]:
    return [
        Entry(Position(f"{epoch}-{seq}"), fields[0].decode(), fields[1].decode())
        for (epoch, seq), fields in itertools.islice(stream.entries.items(), start, None)
    ]
