"""arq's worker with leases: wakes up instead of polling, claims by a script, renews, outlives Redis's outages, drains.

Needs the `worker` extra: import it from here, not from `tailrace.queue`, which producers import too.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from signal import Signals
from types import TracebackType
from typing import Any, Final, Self, TypeAlias, cast
from uuid import uuid4

from arq.worker import Retry, RetryJob, Worker, func
from redis import Redis as BlockingRedis
from redis.asyncio import Redis
from redis.exceptions import RedisError

from tailrace.queue.arq_pool import ClaimedPool
from tailrace.queue.claimed import DONE_MS, CancelReason, Claimed
from tailrace.queue.ending import Ending, error_delay_ms, fields_of, log_error
from tailrace.queue.enqueue import SOON_MS
from tailrace.queue.handback import holder
from tailrace.queue.leases import Leases, Taken, places_of
from tailrace.queue.names import FUNCTION
from tailrace.queue.outage import Outage
from tailrace.queue.redispy import Script, typed
from tailrace.queue.renewal import Renewal, blocking_twin
from tailrace.queue.serializer import PayloadRefused, dump_payload, load_payload
from tailrace.queue.wake import Listener
from tailrace.schemas.keys import DEFAULT_QUEUE, Keys

logger = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[str, Claimed], Awaitable[None]]
"""What runs a job: called with its id and the claim. See LeasedWorker for what its ending means."""

LOOK_S: Final = SOON_MS / 1000
"""A worker looks at the queue at least so often: it covers a word that was lost and the jobs of a dead worker."""

BUSY_HERE_MS: Final = 250
"""A job whose lost run has not yet ended in this process waits so long for it, or for another worker."""

UNLIMITED_TRIES: Final = 2**31


class LeasedWorker(Worker):
    """Runs queued jobs through `handler(job_id, claimed)`, at least once each, while it is open (`async with`).

    Await `async_run()` inside the block; it returns when a `drain()` is through, or with `burst=True` once the queue is
    empty. The block's end drains without grace. `redis` answers bytes; it stays open and needs two connections beside those that
    running jobs use. Construct inside the running event loop. Signals are the caller's.

    What the end of the handler means:
    - It returns: the job is done and leaves the queue. Nothing else makes it leave.
    - It raises arq.Retry(defer=...): the job runs again after that.
    - It raises anything else: the job runs again, after `error_delay_s`, doubled with every claim up to a minute. The log
      gets the error's type and where it was raised, not its message, which may quote the prompt. So a handler that must
      give up on a job says so by returning; if it never does, the job goes when its payload expires.
    - It lets a cancellation through: after DRAIN and CANCELLED the job is handed back at once, after TIMEOUT like an
      error. After LEASE_LOST nothing is written: the job's entries are the new holder's.
    A claim ends in one script that checks the owner. If Redis is away then, it is tried again until Redis is back.

    Jobs of a claim whose reply gets lost wait for one lease. Overridden, all public: main, start_jobs, heart_beat,
    finish_job, finish_failed_job, handle_sig, close. Do not use arq's `run` and `run_check`; results are never kept, arq's
    abort and cron are off. Made for arq>=0.28,<0.29.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        keys: Keys,
        redis: Redis,
        worker_name: str,
        queues: Sequence[str] = (DEFAULT_QUEUE,),
        max_jobs: int = 10,
        lease_s: float = 5.0,
        job_timeout_s: float | None = None,
        look_s: float = LOOK_S,
        error_delay_s: float = 1.0,
        burst: bool = False,
        renewal_client: Callable[[], BlockingRedis] | None = None,
        script: Callable[[str], Script] | None = None,
    ) -> None:
        """`queues` are served in that order: what is due in the first one goes before what is due in the second.
        `script` makes something to call of a script's source, over a connection of the caller's; else `redis` is used."""
        client = typed(redis)
        lease_ms = int(lease_s * 1000)
        super().__init__(
            functions=[func(self._handle, name=FUNCTION)],
            queue_name=keys.queue,
            redis_pool=ClaimedPool(client.connection_pool, self._claim_of),
            burst=burst,
            handle_signals=False,
            max_jobs=max_jobs,
            # The time limit is ours: arq's would be a second source of cancellations.
            job_timeout=cast("float", None),
            keep_result=0,
            max_tries=UNLIMITED_TRIES,
            job_serializer=dump_payload,
            job_deserializer=load_payload,
            log_results=False,
        )
        self.worker_name = worker_name
        self._handler = handler
        self._keys = keys
        self._lease_s = lease_s
        self._timeout_s = job_timeout_s
        self._look_s = look_s
        self._error_delay_s = error_delay_s
        self.claims = self.lost = self.errors = 0
        """For who counts: claims begun, leases lost while their jobs ran, handlers that raised an error."""
        self._queue_length = 0
        self._running: dict[str, Claimed] = {}
        self._wake = asyncio.Event()
        self._looking_ended = asyncio.Event()
        self._drained = asyncio.Event()
        self._drains = 0
        self._outage = Outage(f"worker {worker_name!r}", logger)
        token = holder(worker_name) + uuid4().hex
        self._leases = Leases(
            script or client.register_script, keys=keys, queues=queues, token=token, lease_ms=lease_ms
        )
        wakes = places_of(keys, queues)[1::2]
        self._listener = Listener(client, wakes=wakes, worker=worker_name, heard=self._heard)
        self._renewal = Renewal(
            renewal_client or (lambda: blocking_twin(redis)),
            lease_ms=lease_ms,
            token=token,
            worker=worker_name,
            lost=self._lost_in_thread,
        )
        self._ending = Ending(self._leases, self._renewal, self._outage, lease_s=lease_s)

    async def __aenter__(self) -> Self:
        self._renewal.start()
        self._looking_ended.set()
        self._drained.set()
        self._listener.listening.set()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def running(self) -> dict[str, Claimed]:
        """The claims whose jobs run now, by job id."""
        return {claimed.job_id: claimed for claimed in self._running.values()}

    # The loop: look, then wait for a word, a free slot, the next due job, or the safety look.

    async def main(self) -> None:
        self._looking_ended.clear()
        listening = asyncio.create_task(self._listener.run(), name=f"tailrace-listen-{self.worker_name}")
        try:
            while self.allow_pick_jobs:
                self._wake.clear()
                pause_s = await self._look()
                if self.burst and not self._queue_length and not self.tasks:
                    return
                if listening.done():
                    listening.result()
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._wake.wait()
        finally:
            self._looking_ended.set()
            # Until it ends: up to Python 3.11 redis-py may swallow a cancellation (cpython issue 86296).
            while not listening.done():
                listening.cancel()
                await asyncio.wait([listening], timeout=self._lease_s)
        # Or the caller's block would end, and cut the grace short.
        await self._drained.wait()

    async def _look(self) -> float:
        """Claim as many due jobs as there are free slots, start them; seconds until the next look."""
        free = self.max_jobs - self.job_counter
        if free <= 0:
            return self._look_s
        try:
            async with asyncio.timeout(self._lease_s):
                claim = await self._leases.claim(free)
        except (RedisError, OSError) as error:
            self._queue_length = 1  # unknown: a burst is not over
            return self._outage.failed(error)
        self._outage.over()
        self._queue_length = claim.queue_length
        for raw_id in claim.foreign:
            logger.warning("dropped %r from the queue: no id of namespace %r", raw_id, self._keys.namespace)
        for raw_id in claim.expired:
            logger.warning("dropped %r from the queue: its payload has expired", raw_id)
        for taken in claim.taken:
            self._start(taken, claim.deadline_ms)
        return self._look_s if claim.wait_ms is None else min(self._look_s, claim.wait_ms / 1000)

    def _heard(self) -> bool:
        """A word came. It is not for us if there is no slot, or no more claiming."""
        if self.job_counter >= self.max_jobs or not self.allow_pick_jobs:
            return False
        self._wake.set()
        return True

    # One claim.

    def _start(self, taken: Taken, deadline_ms: int) -> None:
        queued_id = taken.queued_id
        before = self._running.get(queued_id)
        if before is not None and not before.settling and before.reason is None:
            if self._renewal.knows(queued_id, before.number, taken.score):
                # Ours ran out, after a pause or an outage, and nobody had the job since: the run goes on.
                self._renewal.hold(queued_id, before.number, deadline_ms, queue=taken.queue)
                return
            self._lost(queued_id, before.number)
        self.claims += 1
        claimed = Claimed(
            job_id=cast("str", self._keys.job_of(queued_id)),  # the script takes no other ids
            queued_id=queued_id,
            number=self.claims,
            worker=self.worker_name,
            due_ms=int(min(max(taken.score, 0), deadline_ms)),  # a planted score may be infinite
            payload=taken.payload,
            claims=taken.claims,
            queue=taken.queue,
        )
        self._renewal.hold(queued_id, claimed.number, deadline_ms, queue=taken.queue)
        self.job_counter += 1
        if self.job_counter >= self.max_jobs:
            self._listener.listening.clear()
        name = f"tailrace-job-{claimed.number}-{claimed.job_id}"
        task = self.loop.create_task(self._run(claimed), name=name)
        self.tasks[name] = task
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        del self.tasks[task.get_name()]
        # Below its capacity a worker has taken all that was due, and hears of what comes.
        if self.job_counter >= self.max_jobs or self.burst:
            self._wake.set()
        self.job_counter -= 1
        self._listener.listening.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a claim ended in an error of ours", exc_info=error)

    async def _run(self, claimed: Claimed) -> None:
        queued_id = claimed.queued_id
        try:
            if queued_id in self._running:
                # Claimed anew while the run that lost it still ends here: two must not run at once.
                claimed.delay_ms = BUSY_HERE_MS
                await self._ending.settle(claimed)
                return
            self._running[queued_id] = claimed
            try:
                load_payload(claimed.payload)
                # Until the handler begins: arq's own bookkeeping would wait for ever on a connection that fell silent.
                async with asyncio.timeout(self._lease_s) as claimed.starting:
                    await self.run_job(queued_id, claimed.due_ms)
            except PayloadRefused as refusal:
                logger.warning("dropped %r from the queue: %s", queued_id, refusal)
                claimed.delay_ms = DONE_MS
            except (RedisError, OSError) as error:
                # arq's own bookkeeping failed, before the handler started: the job is handed back.
                await asyncio.sleep(self._outage.failed(error))
            finally:
                if not claimed.settling:
                    await self._ending.settle(claimed)
                del self._running[queued_id]
        finally:
            self._renewal.release(queued_id, claimed.number)

    async def _handle(self, ctx: dict[Any, Any]) -> None:
        """What arq calls: the handler, its time limit, and what its ending means."""
        claimed = self._running[ctx["job_id"]]
        error_ms = error_delay_ms(claimed, self._error_delay_s)
        timer: asyncio.TimerHandle | None = None
        if self._timeout_s is not None:
            timer = self.loop.call_later(self._timeout_s, claimed.cancel, CancelReason.TIMEOUT)
        try:
            if claimed.starting is not None:
                claimed.starting.reschedule(None)
            claimed.begin(cast("asyncio.Task[object]", asyncio.current_task()))
            await self._handler(claimed.job_id, claimed)
            claimed.delay_ms = DONE_MS
        except asyncio.CancelledError:
            if claimed.reason not in {CancelReason.DRAIN, CancelReason.CANCELLED}:
                claimed.delay_ms = error_ms
            raise
        except Retry as retry:
            claimed.delay_ms = max(0, retry.defer_score or 0)
            raise
        except Exception as error:
            claimed.delay_ms = error_ms
            self.errors += 1
            log_error(claimed, error, error_ms)
            raise RetryJob from None
        finally:
            if timer is not None:
                timer.cancel()

    def _claim_of(self, queued_id: str) -> Claimed:
        return self._running[queued_id]

    def _lost_in_thread(self, queued_id: str, number: int) -> None:
        # The loop may be closed already: then there is nothing to cancel.
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._lost, queued_id, number)

    def _lost(self, queued_id: str, number: int) -> None:
        claimed = self._running.get(queued_id)
        if claimed is not None and claimed.number == number and not claimed.settling:
            logger.warning(
                "job %r: the lease is lost, its handler is cancelled", claimed.job_id, extra=fields_of(claimed)
            )
            self.lost += 1
            claimed.cancel(CancelReason.LEASE_LOST)

    # The end.

    def stop(self) -> None:
        """Claim no more. Running jobs run on; `async_run` returns unless a drain is under way."""
        self.allow_pick_jobs = False
        self._wake.set()

    async def drain(self, grace_s: float) -> None:
        """Claim no more, give running jobs `grace_s` to end, then cancel the rest once and hand them back at once.

        Returns when nothing of this worker runs any more, or one lease after the cancellation: a handler that ignores it
        keeps its lease until the worker is closed. May be called again meanwhile, with a shorter grace.
        """
        self._drains += 1
        self._drained.clear()
        try:
            await self._drain(grace_s)
        finally:
            self._drains -= 1
            if not self._drains:
                self._drained.set()

    async def _drain(self, grace_s: float) -> None:
        self.stop()
        # A claim may be under way: what it takes gets its grace too. It is bounded by one lease.
        await self._looking_ended.wait()
        if self.tasks and grace_s > 0:
            await asyncio.wait(self.tasks.values(), timeout=grace_s)
        self._cancel_all()
        if self.tasks:
            await asyncio.wait(self.tasks.values(), timeout=self._lease_s)
        if self.tasks:
            logger.warning("%d jobs ignore their cancellation: their leases run out", len(self.tasks))
        with suppress(RedisError, OSError):
            async with asyncio.timeout(self._lease_s):
                # The listener may have been stopped with a word in its hands.
                await self._listener.wake_another()

    async def close(self) -> None:
        """Drain without grace and stop renewing. The connection pool is its owner's."""
        if self._ending.closed:
            return
        try:
            await self.drain(0)
        finally:
            self._ending.closed = True
            await asyncio.to_thread(self._renewal.stop)

    def _cancel_all(self) -> None:
        for claimed in list(self._running.values()):
            claimed.cancel(CancelReason.DRAIN)

    # What arq calls, or would call.

    def handle_sig(self, signum: Signals) -> None:  # noqa: ARG002 -- arq's name for it
        self.stop()
        self._cancel_all()

    async def start_jobs(self, *_args: Any, **_kwargs: Any) -> None:
        """Ids are a hint at most: the claim's script decides what to take."""
        await self._look()

    async def heart_beat(self) -> None:
        """Nothing: a worker's leases are its sign of life."""

    async def finish_job(self, job_id: str, *_args: Any, **_kwargs: Any) -> None:
        await self._ending.settle(self._running[job_id])

    async def finish_failed_job(self, job_id: str, *_args: Any, **_kwargs: Any) -> None:
        """The payload was exchanged or expired between the claim and the start."""
        claimed = self._running[job_id]
        claimed.delay_ms = DONE_MS
        await self._ending.settle(claimed)
