"""Random schedules of what can happen to one log, each answer held against a model in plain Python.

Several writers, some of them zombies; lost replies and re-sends; cancels; a server that loses its tail (DUMP earlier,
RESTORE later); deletion with re-use of the id; tombstones; forgotten scripts. Two readers: one lives all the time and
hears publications lost, doubled and out of order, one is cut off and resumes again and again.
"""

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from log_readers import JOB, CutOff, Live
from redis.asyncio import Redis

from job_logs import Job, Pen, attached, check_log, request, stored
from tailrace.joblog import (
    Broker,
    End,
    Fenced,
    Gone,
    LogRefusal,
    Lost,
    Publication,
    Script,
    Sealed,
    Word,
    decode_snapshot,
    encode_snapshot,
    erase,
    parse_publication,
    read_whole,
    seal,
    store_snapshot,
)
from tailrace.producer import Producer
from tailrace.schemas import (
    END,
    Entry,
    JobConflict,
    JobNotFound,
    Keys,
    Position,
    Status,
    parse_position,
)


class Forgetful(Broker):
    """Loses replies: the very same script is sent again."""

    def __init__(self, redis: Redis, chance: random.Random) -> None:
        super().__init__(redis)
        self._chance = chance

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Word]) -> Any:
        answer = await super().run(script, keys, args)
        while self._chance.random() < 0.25:
            answer = await super().run(script, keys, args)
        return answer


class Writer:
    """What one worker believes: the whole log as it has read and written it."""

    def __init__(self, name: str, job: Job) -> None:
        self.name, self.job = name, job
        self.pen: Pen | None = None
        self.epoch = 0
        self.memory: list[Entry] = []


class Model:
    """One schedule."""

    def __init__(self, redis: Redis, namespace: str, seed: int) -> None:
        self.chance = random.Random(seed)
        self.redis = redis
        self.broker = Broker(redis)
        self.forgetful = Forgetful(redis, self.chance)
        self.keys = Keys(namespace)
        self.producer = Producer(self.forgetful, self.keys)
        self.writers: list[Writer] = []
        self.prompt = "one"
        self.incarnation = ""
        self.words = 0
        self.dumped: list[bytes] = []
        self.rolled_back = 0
        self.reused = False
        self.drafts: list[tuple[str, bytes, list[Entry]]] = []
        #: What was in the log when it was emptied for a snapshot; None while it was not.
        self.archived: list[Entry] | None = None
        self.erased = False

    async def run(self) -> None:
        await self.submit()
        self.writers = [Writer(f"w{number}", await self.job()) for number in range(3)]
        pubsub: Any = self.redis.pubsub()  # pyright: ignore[reportUnknownMemberType] - **kwargs without a type
        async with pubsub, Live(self) as live:
            await pubsub.subscribe(self.keys.live(JOB))
            cut = CutOff(self)
            for _ in range(self.chance.randint(10, 40)):
                await self.step()
                check_log(await self.entries())
                heard = await self.heard(pubsub)
                await live.hears(heard)
                if self.chance.random() < 0.5:
                    await cut.reads_on()
            await live.looks()
            await cut.reads_on()

    async def step(self) -> None:
        steps: list[tuple[float, Callable[[], Awaitable[None]]]] = [
            (0.14, self.claim),
            (0.54, self.say),
            (0.03, self.complete),
            (0.07, self.dump),
            (0.05, self.roll_back),
            (0.02, self.cancel),
            (0.03, self.draft_snapshot),
            (0.03, self.store_snapshot),
            (0.01, self.erase),
            (0.02, self.reuse),
            (0.03, self.submit),
            (0.03, self.forget_scripts),
        ]
        [step] = self.chance.choices([step for _, step in steps], [weight for weight, _ in steps])
        await step()

    # What stands

    async def entries(self) -> list[Entry]:
        return await stored(self.broker, self.keys, JOB)

    async def job(self) -> Job:
        job = await attached(self.forgetful, self.keys, JOB)
        self.incarnation = job.incarnation
        return job

    async def shown(self) -> list[Entry]:
        """What readers get."""
        return await read_whole(self.broker, self.keys, JOB)

    async def refusal(self, writer: Writer, *, claiming: bool) -> type[LogRefusal] | None:
        """What the log must answer to this writer."""
        entries = await self.entries()
        if not entries or (entries[-1].position == END):
            return Sealed
        if writer.job.incarnation != self.incarnation:
            return Gone
        if claiming:
            return None
        assert writer.pen is not None
        top = entries[-1].position
        if top == writer.pen.top:
            return None
        return Fenced if parse_position(top)[0] > writer.pen.epoch else Lost

    async def expect(self, refusal: type[LogRefusal] | None, happening: Awaitable[Any]) -> Any:
        answer: Any = None
        refused: type[LogRefusal] | None = None
        try:
            answer = await happening
        except LogRefusal as error:
            refused = type(error)
        assert refused is refusal, f"{refused} instead of {refusal}"
        return answer

    # What happens

    async def claim(self, writer: Writer | None = None) -> None:
        writer = writer or self.chance.choice(self.writers)
        before = await self.entries()
        refusal = await self.refusal(writer, claiming=True)
        # Who has not looked since another has claimed is told so, and looks.
        known = max(writer.epoch, top_epoch(before)) if self.chance.random() < 0.9 else writer.epoch
        if refusal is None and known < top_epoch(before):
            refusal = Fenced
        pen = await self.expect(refusal, writer.job.claim(worker=writer.name, known_epoch=known))
        if refusal is not None:
            writer.pen = None
            return
        after = await self.entries()
        assert after[:-1] == before
        assert after[-1].position == pen.top
        assert pen.after == before[-1].position
        assert pen.epoch > max(known, parse_position(pen.after)[0])
        writer.pen, writer.epoch, writer.memory = pen, pen.epoch, after

    async def say(self) -> None:
        writer = self.chance.choice(self.writers)
        if writer.pen is None:
            await self.claim(writer)
        if writer.pen is None:
            return
        texts: list[str] = []
        for _ in range(self.chance.randint(1, 3)):
            self.words += 1
            texts.append(f"{writer.name}.{self.words} ")
        refusal = await self.refusal(writer, claiming=False)
        await self.expect(refusal, writer.pen.write(*texts))
        if refusal is Lost:
            assert self.rolled_back, "lost, but the server never went back"
            await self.replay(writer, texts)
        elif refusal is not None:
            writer.pen = None
        else:
            await self.remember(writer, texts)

    async def remember(self, writer: Writer, texts: list[str]) -> None:
        pen = writer.pen
        assert pen is not None
        first = pen.seq - len(texts)
        writer.memory += [
            Entry(Position(f"{pen.epoch}-{number}"), "chunk", text) for number, text in enumerate(texts, first + 1)
        ]
        assert await self.entries() == writer.memory, "what the writer believes is not what stands"

    async def replay(self, writer: Writer, texts: list[str]) -> None:
        """Say again what the server lost, under a new claim; the server may lose that too, later."""
        known = [entry.position for entry in writer.memory]
        said, pen = writer.memory, writer.pen
        assert pen is not None
        await self.claim(writer)
        if writer.pen is None or writer.pen.after not in known:
            writer.pen = None  # another one's lost attempt came back: begin anew
            return
        lost = said[known.index(writer.pen.after) + 1 :]
        again = [entry.value for entry in lost if entry.field == "chunk"] + texts
        await self.expect(None, writer.pen.write(*again))
        await self.remember(writer, again)

    async def complete(self) -> None:
        writer = self.chance.choice(self.writers)
        pen = writer.pen
        if pen is None:
            return
        before = await self.entries()
        refusal = await self.refusal(writer, claiming=False)
        end = End(Status.COMPLETED)
        sealing = seal(self.forgetful, self.keys, JOB, end, top=pen.top, incarnation=writer.job.incarnation)
        if refusal is Sealed:
            # It has its end: whose does not matter, but for another job under the same id.
            refusal = Gone if before and writer.job.incarnation != self.incarnation else None
        await self.expect(refusal, sealing)
        if refusal is None and before and before[-1].position != END:
            assert (await self.entries())[:-1] == before == writer.memory
        writer.pen = None

    async def cancel(self) -> None:
        before = await self.entries()
        ending = await seal(self.forgetful, self.keys, JOB, End(Status.CANCELLED))
        after = await self.entries()
        if not before:
            assert ending.end is None
            assert after == []
        elif before[-1].position == END:
            assert after == before
            assert not ending.ours
        else:
            assert after[:-1] == before
            assert after[-1].position == END
            assert ending.end is not None
            assert ending.end.last == before[-1].position

    async def dump(self) -> None:
        if await self.entries() and not self.reused:
            self.dumped.append(await (await self.job()).dump())

    async def roll_back(self) -> None:
        if not self.dumped or self.reused or self.archived is not None or self.erased:
            return
        await (await self.job()).restore(self.chance.choice(self.dumped))
        self.rolled_back += 1

    async def draft_snapshot(self) -> None:
        entries = await self.entries()
        # Also of a log that has not ended: a caller's mistake, and no harm.
        if entries:
            self.drafts.append((self.incarnation, encode_snapshot(entries), entries))

    async def store_snapshot(self) -> None:
        if not self.drafts:
            return
        incarnation, blob, drafted = self.chance.choice(self.drafts)
        before = await self.entries()
        done = await store_snapshot(
            self.broker, self.keys, JOB, incarnation=incarnation, blob=blob, end=drafted[-1].value
        )
        assert done == (bool(before) and before[-1].position == END and before[-1] == drafted[-1])
        if done:
            self.archived = before
            assert await self.shown() == before == decode_snapshot(JOB, blob), "the snapshot is not what stood"
            assert await self.entries() == []

    async def erase(self) -> None:
        before = await self.entries()
        ended = not before or before[-1].position == END
        try:
            assert await erase(self.broker, self.keys, JOB) == ended
        except JobNotFound:
            assert self.erased
        if ended:
            self.erased = True
            assert await self.entries() == []
            try:
                await self.shown()
            except JobNotFound:
                return
            raise AssertionError("an erased job can be read")

    async def submit(self) -> None:
        """The same again is the same job, another one under its id is refused."""
        before = await self.entries()
        if self.erased:
            await self.refused_as_taken(self.prompt)
        else:
            await self.producer.submit(request(self.prompt), job_id=JOB)
        await self.refused_as_taken("quite another")
        if before or self.archived is not None or self.erased:
            assert await self.entries() == before

    async def refused_as_taken(self, prompt: str) -> None:
        try:
            await self.producer.submit(request(prompt), job_id=JOB)
        except JobConflict:
            return
        raise AssertionError("one id, two requests")

    async def reuse(self) -> None:
        """The job's time is over, and somebody submits another one under its id."""
        if self.reused:
            return
        await self.broker.call("DEL", self.keys.log(JOB), self.keys.request(JOB), self.keys.snapshot(JOB))
        for writer in self.writers:
            await self.expect(Gone, writer.job.claim(worker=writer.name, known_epoch=writer.epoch))
            if writer.pen is not None:
                await self.expect(Gone, writer.pen.write("into nothing"))
        await self.expect(Gone, seal(self.forgetful, self.keys, JOB, End(Status.CANCELLED)))
        self.prompt, self.reused, self.archived, self.erased = "two", True, None, False
        await self.producer.submit(request(self.prompt), job_id=JOB)
        self.writers.append(Writer("new", await self.job()))

    async def forget_scripts(self) -> None:
        await self.broker.call("SCRIPT FLUSH")

    # Those who read

    async def heard(self, pubsub: Any) -> list[Publication]:
        """What was published since."""
        await self.broker.call("PUBLISH", self.keys.live(JOB), "mark")
        heard: list[Publication] = []
        while True:
            message: Any = await pubsub.get_message(ignore_subscribe_messages=True, timeout=5)
            if message is None:
                continue
            if message["data"] == b"mark":
                return heard
            publication = parse_publication(message["data"])
            assert publication is not None, message
            heard.append(publication)


def top_epoch(entries: Sequence[Entry]) -> int:
    """The epoch that a log stands at; that of a sealed or missing log is nobody's."""
    return parse_position(entries[-1].position)[0] if entries and entries[-1].field != "end" else 0
