"""The scripts of the log and the queue on a real server, on fakeredis and on the simulated server: the same answers, the same
keys."""

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import fakeredis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from redis import Redis

from tailrace.joblog import End, Script, encode_snapshot
from tailrace.joblog.writing import APPEND, CLAIM, ERASE, HAND_OFF, SEAL, SNAPSHOT
from tailrace.producer.storing import SUBMIT
from tailrace.producer.submitting import Producer
from tailrace.queue import payload_key, queue_payload
from tailrace.queue.enqueue import _ENQUEUE  # pyright: ignore[reportPrivateUsage]  # the script as it is sent
from tailrace.queue.names import IN_PROGRESS_PREFIX, JOB_PREFIX, RETRY_PREFIX
from tailrace.queue.scripts import CLAIM_LUA, RENEW_LUA, SETTLE_LUA
from tailrace.schemas import END, Entry, JobRequest, Keys, Position, Status

from .reality import UNCHECKED, Send, raw, simulated

KEYS: Final = Keys("m")
JOBS: Final = ("a", "b")
#: Longer than any run of this test: nothing depends on when exactly a command comes.
LONG_MS: Final = 600_000


class Side:
    """One of the three, and what its answers meant: positions and times differ from side to side."""

    def __init__(self, name: str, send: Send) -> None:
        self.name, self.send = name, send
        self._loaded: dict[str, Any] = {}
        self._epochs: dict[bytes, bytes] = {}
        self.tops: dict[str, bytes] = {}
        """By writer: the top that it expects next."""
        self.deadlines: dict[bytes, bytes] = {}
        """By queued id: of the last claim."""

    def run(self, script: Script | str, keys: Sequence[str], args: Sequence[bytes | str | int]) -> Any:
        source = script if isinstance(script, str) else script.plain.source
        if source not in self._loaded:
            self._loaded[source] = self.send(["SCRIPT", "LOAD", source])
        return self.send(["EVALSHA", self._loaded[source], len(keys), *keys, *args])

    def alike(self, answer: Any) -> Any:
        """An answer in which epochs are numbered as they came, and times are left out."""
        if isinstance(answer, list):
            return [self.alike(item) for item in answer]  # pyright: ignore[reportUnknownVariableType]  # foreign
        if isinstance(answer, bytes):
            named = re.sub(rb"\b1[78]\d{14}\b", self._epoch, answer)
            return re.sub(rb"\b1[78]\d{11}\b", b"T", named)
        if isinstance(answer, int) and answer > 10**12:
            return "T"
        return answer

    def _epoch(self, match: re.Match[bytes]) -> bytes:
        return self._epochs.setdefault(match[0], b"E%d" % len(self._epochs))

    def keys(self) -> Any:
        """Everything that is stored."""
        found: dict[str, Any] = {}
        for job in JOBS:
            found |= {key: self.send(["GET", key]) for key in (KEYS.request(job), KEYS.snapshot(job))}
            found[KEYS.log(job)] = self.send(["XRANGE", KEYS.log(job), "-", "+"])
            for prefix in (IN_PROGRESS_PREFIX, JOB_PREFIX):
                found[prefix + job] = self.send(["GET", prefix + KEYS.queued(job)])
        for key in (KEYS.queue, KEYS.open):
            found[key] = self.send(["ZRANGE", key, 0, -1])
            found[key].sort()
        found["ended"] = self.send(["XLEN", KEYS.ended])
        found["wake"] = self.send(["LLEN", KEYS.wake])
        expiring = [KEYS.log("a"), KEYS.request("a"), KEYS.snapshot("b"), KEYS.queue, KEYS.open, KEYS.ended]
        ttls = [self.send(["PTTL", key]) for key in expiring]
        return {key: self.alike(value) for key, value in found.items()}, [round(ttl / 20_000) for ttl in ttls]


_jobs = st.sampled_from(JOBS)
_writers = st.sampled_from(["w1", "w2"])


class Scripts(RuleBasedStateMachine):
    """Every script of the log and the queue, in any order."""

    real: Redis

    def __init__(self) -> None:
        super().__init__()
        self.real.flushall()  # pyright: ignore[reportUnknownMemberType]  # **kwargs without a type
        self.sides = [
            Side("real", raw(self.real)),
            Side("fake", raw(fakeredis.FakeRedis())),
            Side("simulated", simulated()),
        ]
        self.seqs: dict[str, int] = {}

    def everywhere(self, act: Callable[[Side], Any]) -> Any:
        """Do it on all sides; the answer, which must be the same."""
        answers = [side.alike(act(side)) for side in self.sides]
        for side, answer in zip(self.sides, answers, strict=True):
            assert answer == answers[0], f"{side.name} answers {answer!r}, {self.sides[0].name} {answers[0]!r}"
        return answers[0]

    @invariant()
    def the_keys_are_the_same(self) -> None:
        first = self.sides[0].keys()
        for side in self.sides[1:]:
            keys = side.keys()
            assert keys == first, f"{side.name} differs from {self.sides[0].name}"

    @rule(
        job=_jobs,
        prompt=st.sampled_from(["x", "y"]),
        delay=st.sampled_from([None, 300]),
        capacity=st.sampled_from([0, 1]),
    )
    def submit(self, job: str, prompt: str, delay: float | None, capacity: int) -> None:
        request = JobRequest.of(prompt, model="m", delay=delay, metadata={"list": []})
        producer = Producer(None, KEYS, queue_capacity=capacity)  # type: ignore[arg-type]  # only to make the command  # pyright: ignore[reportArgumentType]
        storing = asyncio.run(producer._storing(request, job))  # pyright: ignore[reportPrivateUsage]  # what it sends
        keys, args = storing.submit(KEYS, capacity)
        args[1] = re.sub(r'"incarnation":"\w+"', f'"incarnation":"{prompt}"', str(args[1]))
        self.everywhere(lambda side: side.run(SUBMIT, keys, args))  # type: ignore[arg-type]  # no floats

    @rule(
        job=_jobs,
        writer=_writers,
        incarnation=st.sampled_from(["x", "x", "y"]),
        nonce=st.sampled_from(["n1", "n2"]),
        known=st.sampled_from(["", 0]),
    )
    def claim(self, job: str, writer: str, incarnation: str, nonce: str, known: str | int) -> None:
        record = f'{{"attempt": 1, "worker": "{writer}", "nonce": "{nonce}", "incarnation": "{incarnation}"}}'

        def act(side: Side) -> Any:
            answer = side.run(CLAIM, [KEYS.log(job)], [KEYS.live(job), nonce, incarnation, known, 5, record])
            if answer[0] == b"claimed":
                side.tops[job + writer] = answer[1]
            return answer

        if self.everywhere(act)[0] == b"claimed":
            self.seqs[job + writer] = 1

    @rule(
        job=_jobs,
        writer=_writers,
        texts=st.lists(st.sampled_from(["a", "é", ""]), min_size=1, max_size=3),
        again=st.booleans(),
    )
    def append(self, job: str, writer: str, texts: list[str], again: bool) -> None:
        if job + writer not in self.seqs:
            return
        seq = self.seqs[job + writer]
        pairs = [part for text in texts for part in ("chunk", text)]

        def act(side: Side) -> Any:
            top = side.tops[job + writer]
            epoch = top.partition(b"-")[0]
            args: list[bytes | str | int] = [KEYS.live(job), top, "x", epoch, seq, *pairs]
            answer = side.run(APPEND, [KEYS.log(job)], args)
            if again:
                answer = [*answer, *side.run(APPEND, [KEYS.log(job)], args)]
            if answer[0] == b"ok":
                side.tops[job + writer] = epoch + b"-%d" % (seq + len(texts) - 1)
            return answer

        if self.everywhere(act)[0] == b"ok":
            self.seqs[job + writer] += len(texts)

    @rule(
        job=_jobs, writer=st.sampled_from(["", "w1", "w2"]), incarnation=st.sampled_from(["", "x"]),
        erase=st.sampled_from(["0", "0", "1"]),
    )  # fmt: skip
    def seal(self, job: str, writer: str, incarnation: str, erase: str) -> None:
        end = End(Status.COMPLETED, finish_reason="stop").value()

        def act(side: Side) -> Any:
            top = side.tops.get(job + writer, b"")
            args: list[bytes | str | int] = [KEYS.live(job), top, incarnation, end, job, erase]
            return side.run(SEAL, [KEYS.log(job), KEYS.request(job)], args)

        self.everywhere(act)

    @rule(job=_jobs, incarnation=st.sampled_from(["x", "x", "y"]), stale=st.booleans())
    def snapshot(self, job: str, incarnation: str, stale: bool) -> None:
        blob = encode_snapshot([Entry(Position(END), "end", "{}")])

        def act(side: Side) -> Any:
            top = side.send(["XREVRANGE", KEYS.log(job), "+", "-", "COUNT", 1])
            end = b"another" if stale else top[0][1][1] if top else b""
            return side.run(SNAPSHOT, [KEYS.log(job), KEYS.snapshot(job)], [incarnation, blob, end])

        self.everywhere(act)

    @rule(job=_jobs)
    def erase(self, job: str) -> None:
        self.everywhere(lambda side: side.run(ERASE, [KEYS.log(job), KEYS.request(job), KEYS.snapshot(job)], []))

    @rule(job=_jobs, trimmed=st.sampled_from(["0", "1"]))
    def hand_off(self, job: str, trimmed: str) -> None:
        self.everywhere(
            lambda side: side.run(
                HAND_OFF,
                [KEYS.log(job), KEYS.open, KEYS.ended],
                [job, LONG_MS, trimmed, 1000, 1000, "job", job, "status", "completed"],
            )
        )

    @rule(job=_jobs, delay_ms=st.sampled_from([0, LONG_MS]), capacity=st.sampled_from([0, 1]))
    def enqueue(self, job: str, delay_ms: int, capacity: int) -> None:
        names = [KEYS.queue, payload_key(KEYS, job), KEYS.wake]
        args: list[bytes | str | int] = [KEYS.queued(job), queue_payload(0), delay_ms, 2 * LONG_MS, capacity]
        self.everywhere(lambda side: side.run(_ENQUEUE, names, args))

    @rule(worker=_writers)
    def take(self, worker: str) -> None:
        def act(side: Side) -> Any:
            wait, length, deadline, taken, *dropped = side.run(
                CLAIM_LUA, [KEYS.queue, KEYS.wake], [LONG_MS, 5, worker, f"{KEYS.namespace}:"]
            )
            jobs = [tuple(taken[at : at + 5]) for at in range(0, len(taken), 5)]
            for queued_id, *_ in jobs:
                side.deadlines[queued_id] = b"%d" % deadline
            # Who was due first depends on the clock's milliseconds.
            return [wait > 0, length, sorted(side.alike([*job]) for job in jobs), *dropped]

        self.everywhere(act)

    @rule(job=_jobs, worker=_writers, known=st.booleans())
    def renew(self, job: str, worker: str, known: bool) -> None:
        queued = KEYS.queued(job)

        def act(side: Side) -> Any:
            deadline = side.deadlines.get(queued.encode(), b"1") if known else b"1"
            answer = side.run(RENEW_LUA, [KEYS.queue], [LONG_MS, queued, worker, deadline])
            if not answer[1]:
                side.deadlines[queued.encode()] = b"%d" % answer[0]
            return answer

        self.everywhere(act)

    @rule(
        job=_jobs, worker=_writers, known=st.booleans(), delay=st.sampled_from([-1, 0, LONG_MS]), expired=st.booleans()
    )
    def settle(self, job: str, worker: str, known: bool, delay: int, expired: bool) -> None:
        queued = KEYS.queued(job)
        names = [KEYS.queue, KEYS.wake, *(p + queued for p in (IN_PROGRESS_PREFIX, JOB_PREFIX, RETRY_PREFIX))]

        def act(side: Side) -> Any:
            if expired:
                side.send(["DEL", IN_PROGRESS_PREFIX + queued])
            deadline = side.deadlines.get(queued.encode(), b"1") if known else b"1"
            return side.run(SETTLE_LUA, names, [queued, worker, deadline, delay])

        self.everywhere(act)


def test_the_scripts_do_the_same_on_all_three(real: Redis) -> None:
    Scripts.real = real
    run_state_machine_as_test(
        Scripts,
        settings=settings(
            max_examples=40,
            stateful_step_count=30,
            deadline=None,
            database=None,
            suppress_health_check=UNCHECKED,
        ),
    )
