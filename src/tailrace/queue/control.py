"""A worker's control channel: words about single jobs, sent by whoever cancels one. A hint; the truth is the log."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from types import TracebackType
from typing import Final, NoReturn, Self, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from tailrace.queue.outage import Outage
from tailrace.queue.redispy import typed
from tailrace.schemas.errors import InvalidRequest
from tailrace.schemas.keys import Keys, check_job_id

logger = logging.getLogger(__name__)

CANCEL: Final = "cancel"
"""Stop the job's run: its log is sealed."""

WORDS: Final = frozenset({CANCEL})
MAX_MESSAGE_BYTES: Final = 160

QUIET_S: Final = 5.0
"""After so long without a message the connection is asked whether it lives; after twice that it is given up."""


def control_message(word: str, job_id: str) -> str:
    """What to publish on `keys.worker(name)`. Raises: InvalidRequest for an unknown word or a job id that is none."""
    if word not in WORDS:
        raise InvalidRequest(f"{word!r} is no control word: use one of {sorted(WORDS)}")
    return f"{word} {check_job_id(job_id)}"


def read_control_message(message: bytes) -> tuple[str, str] | None:
    """Word and job id; None for anything else that was published there."""
    if len(message) > MAX_MESSAGE_BYTES:
        return None
    try:
        word, _, job_id = message.decode("ascii").partition(" ")
        return (word, check_job_id(job_id)) if word in WORDS else None
    except (UnicodeDecodeError, InvalidRequest):
        return None


class Control:
    """While open, calls `on_word(word, job_id)` for each word on the control channel of `worker_name`.

    Holds one connection of `redis` (which answers bytes). Words sent while it is not connected are lost: whoever depends
    on one must look at the log as well. After a lost connection it subscribes again, at a measured pace.
    """

    def __init__(
        self,
        on_word: Callable[[str, str], None],
        *,
        keys: Keys,
        redis: Redis,
        worker_name: str,
        quiet_s: float = QUIET_S,
    ) -> None:
        self._on_word = on_word
        self._channel = keys.worker(worker_name)
        self._redis = typed(redis)
        self._quiet_s = quiet_s
        self._outage = Outage(f"worker {worker_name!r}, control channel", logger)
        self._task: asyncio.Task[None] | None = None
        self.subscribed = asyncio.Event()
        """Set while the channel is heard."""

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name=f"tailrace-control-{self._channel}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            try:
                await self._hear()
            except (RedisError, OSError) as error:
                self.subscribed.clear()
                await asyncio.sleep(self._outage.failed(error))

    async def _hear(self) -> NoReturn:
        """Subscribe and pass words on until the connection fails."""
        async with aclosing(self._redis.pubsub()) as pubsub:
            asked = False
            await pubsub.subscribe(self._channel)
            while True:
                message = await pubsub.get_message(timeout=self._quiet_s)
                if message is None:
                    if asked:
                        raise ConnectionError("the control connection does not answer")
                    asked = True
                    await pubsub.ping()
                    continue
                asked = False
                kind = message["type"]
                if kind == "subscribe":
                    self._outage.over()
                    self.subscribed.set()
                elif kind == "message":
                    self._pass_on(cast("bytes", message["data"]))

    def _pass_on(self, raw: bytes) -> None:
        heard = read_control_message(raw)
        if heard is None:
            logger.warning("ignored %d bytes on %r: no control word", len(raw), self._channel)
            return
        try:
            self._on_word(*heard)
        except Exception:
            word, job_id = heard
            logger.exception(
                "the control word %r for job %r was not carried out", word, job_id, extra={"job_id": job_id}
            )
