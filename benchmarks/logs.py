"""Jobs and their logs without a worker: written by the scripts that workers use, so a row can measure reading alone."""

import re
from collections.abc import Sequence
from functools import cache
from pydoc_data.topics import topics
from typing import Final, Self

from tailrace.joblog import APPEND, Broker, Claim, End, append_command, claim, incarnation_of, look, refuse, seal
from tailrace.producer import Producer
from tailrace.schemas import JobRequest, Keys, Position, Status

#: About what a model's tokenizer makes of English: some four characters a piece, spaces in front.
_PIECE: Final = re.compile(r" ?\w{1,6}| ?[^\w ]{1,3}")
_AT_ONCE: Final = 200


@cache
def _prose() -> tuple[str, ...]:
    # Without its indents and rules: they would compress better than an answer does.
    words = (word for name in sorted(topics) for word in topics[name].split() if word[0].isalnum())
    return tuple(_PIECE.findall(" ".join(words)))


def tokens(count: int, *, skip: int = 0) -> list[str]:
    """So many tokens of English prose (Python's manual), from a place in it: they compress as an answer does."""
    prose = _prose()
    return [prose[number % len(prose)] for number in range(skip, skip + count)]


def characters_a_token() -> float:
    """For a reader who wants to compare with other text."""
    return sum(map(len, _prose())) / len(_prose())


class Pen:
    """One attempt at one job's log. `write` appends and waits for the server's word."""

    def __init__(self, broker: Broker, keys: Keys, job_id: str, incarnation: str, claimed: Claim) -> None:
        self.broker, self.keys, self.job_id, self.incarnation = broker, keys, job_id, incarnation
        self.epoch, self.seq = claimed.epoch, 0
        self.top: Position = claimed.position

    @classmethod
    async def claim(cls, broker: Broker, keys: Keys, job_id: str) -> Self:
        """The pen of the next attempt. Raises: LogRefusal, JobNotFound."""
        incarnation = incarnation_of((await look(broker, keys, job_id)).job) or ""
        claimed = await claim(broker, keys, job_id, incarnation=incarnation, attempt=1, worker="bench")
        return cls(broker, keys, job_id, incarnation, claimed)

    @classmethod
    async def submitted(cls, broker: Broker, keys: Keys, job_id: str | None = None) -> Self:
        """A new job, claimed at once. No worker may be there."""
        request = JobRequest.of("Tell me what you know.", model="bench", temperature=0, max_tokens=512)
        return await cls.claim(broker, keys, await Producer(broker, keys).submit(request, job_id=job_id))

    async def write(self, texts: Sequence[str]) -> None:
        """Chunks, in one append. Raises: LogRefusal."""
        pairs = [part for text in texts for part in ("chunk", text)]
        command = append_command(
            self.keys,
            self.job_id,
            top=self.top,
            incarnation=self.incarnation,
            epoch=self.epoch,
            seq=self.seq + 1,
            pairs=pairs,
        )
        refuse(await self.broker.run(APPEND, [str(command[3])], command[4:]))
        self.seq += len(texts)
        self.top = Position(f"{self.epoch}-{self.seq}")

    async def write_all(self, texts: Sequence[str]) -> None:
        """Chunks, in appends of a size that a busy worker makes."""
        for at in range(0, len(texts), _AT_ONCE):
            await self.write(texts[at : at + _AT_ONCE])

    async def finish(self) -> None:
        """End, snapshot, hand-off, out of the queue: all that a worker leaves of a job."""
        # The worker's room loads much that a process which only writes has no need of.
        from tailrace.worker.settle import leave, settle

        await seal(self.broker, self.keys, self.job_id, End(Status.COMPLETED, finish_reason="stop"), top=self.top)
        await settle(self.broker, self.keys, self.job_id)
        await leave(self.broker, self.keys, self.job_id)
