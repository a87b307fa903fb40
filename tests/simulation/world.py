"""One seed, played: one server or two, workers, producers, readers and what befalls them, until all has come to an end."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from typing import Any, Final
from unittest.mock import patch

from tailrace.joblog import connect
from tailrace.schemas import GRACE_S, Settings, WorkerSettings
from tailrace.worker.app import Worker

from .blows import Blows
from .checks import Log, Watch, queued, text_of
from .loop import Process, simulated_loop
from .network import Weather
from .plan import HOST, QUEUE_HOST, QUEUE_URL, QUEUES, URL, Plan, PlannedJob
from .productions import KEYS, Production, moments
from .readers import Reader, RecordReader, TextReader
from .renewal import SimulatedRenewal
from .shims import hurried, in_place
from .site import Site
from .upstream import SimulatedUpstreams

SETTINGS: Final = {
    (lease_s, queue_url): Settings(
        redis_url=URL,
        queue_url=queue_url,
        namespace=KEYS.namespace,
        worker=WorkerSettings(queues=QUEUES, max_jobs=10, lease_s=lease_s, sweep_s=lease_s),
    )
    for lease_s in (1.0, 5.0)
    for queue_url in (None, QUEUE_URL)
}

#: Once nothing goes wrong any more, a job may wait for a lease, for a worker's doubled pauses after errors, for sweeps.
SETTLES_S: Final = 150.0


class Violation(AssertionError):
    """A promise was broken."""


class World:
    """Plays a plan once: `World(plan).play()`. Raises: Violation, AssertionError, Stuck."""

    def __init__(
        self, plan: Plan, *, mutate: Callable[[str], str] = str, trace: Callable[[str], None] | None = None
    ) -> None:
        self.plan = plan
        self.chance = random.Random(f"world {plan.seed}")
        self.loop = simulated_loop(random.Random(f"loop {plan.seed}"))
        self.sites = [self._site("server", HOST, plan.weather)]
        if plan.apart is not None:
            self.sites.append(self._site("queue", QUEUE_HOST, plan.apart.weather))
        self.urls: tuple[str, str | None] = URL, QUEUE_URL if plan.apart else None
        for site in self.sites:
            site.server.mutate = mutate
            if trace is not None:
                site.server.trace = self.tell
        self.logs, self.queue = self.sites[0].server, self.sites[-1].server
        self.watch = Watch(self.logs, self.queue, KEYS, [job.job_id for job in plan.jobs], plan.temper.calls)
        self.sites[0].went_back = self.watch.went_back
        if plan.apart is not None:
            self.sites[1].went_back = self.watch.queue_went_back
        self.readers: list[Reader] = []
        self.processes: list[Process] = [self.loop.outside, *(site.process for site in self.sites)]
        self.workers: dict[str, tuple[Process, Worker | None]] = {}
        self.productions: dict[str, Production] = {}
        self.actors: list[asyncio.Task[Any]] = []
        self.staff: list[asyncio.Task[Any]] = []
        self._look_again_at = 0.0
        self.accepted: set[str] = set()
        self.deleted: set[str] = set()
        self._trace = trace
        self.blows = Blows(self)
        self.watch.on_moment = self.blows.perhaps_lose_it

    def _site(self, name: str, host: str, weather: Weather) -> Site:
        chance = random.Random(f"network {self.plan.seed}" if name == "server" else f"network {name} {self.plan.seed}")
        return Site(self.loop, chance, weather, name=name, host=host)

    def tell(self, what: str) -> None:
        if self._trace is not None:
            self._trace(f"{self.loop.now:9.4f}  {what}")

    # Playing.

    def play(self) -> None:
        with ExitStack() as stack:
            stack.enter_context(in_place(self.loop, random.Random(f"secrets {self.plan.seed}")))
            if self.plan.apart is not None:
                stack.enter_context(hurried(self.plan.apart.haste))
            stack.enter_context(patch("tailrace.worker.app.Upstreams", SimulatedUpstreams))
            stack.enter_context(patch("tailrace.queue.leased.Renewal", SimulatedRenewal))
            SimulatedUpstreams.chance = random.Random(f"upstream {self.plan.seed}")
            SimulatedUpstreams.temper = self.plan.temper
            asyncio.set_event_loop(self.loop)
            try:
                self._play()
            finally:
                self._clear_away()
                asyncio.set_event_loop(None)

    def _play(self) -> None:
        for number in range(self.plan.workers):
            self.start_worker(number)
        for job in self.plan.jobs:
            self.start_producer(job, moments(job))
            for number in range(self.plan.readers):
                self._start_reader(job, number)
        blows = self.loop.outside.start(self.blows.fall())
        if not self.loop.run_until(blows.done, at_most_s=self.plan.calm_at + 60):
            raise Violation("the blows did not end")
        blows.result()
        self.blows.calm_down()
        limit = SETTLES_S + max(self._latest_end(job) for job in self.plan.jobs)
        if self.plan.apart is not None:
            limit += 2 * self.plan.apart.minute_s
        if not self.loop.run_until(self._all_over, at_most_s=limit):
            raise Violation(f"not over {limit:.0f} s after all went well again: {self._what_is_open()}")
        self._check_outcome()

    def _latest_end(self, job: PlannedJob) -> float:
        """When a job may still run out its time, once all is well."""
        deadline = job.request.deadline_s + job.request.delay_s + GRACE_S
        return deadline if deadline < 1000 else 0.0

    def _all_over(self) -> bool:
        if self.loop.now < self._look_again_at:
            return False
        self._look_again_at = self.loop.now + 0.1
        for task in (*self.actors, *self.staff):
            if task.done():
                task.result()
        if any(each.process.dead and not each.given_up for each in self.productions.values()):
            return False
        return all(task.done() for task in self.actors) and all(self._job_over(job.job_id) for job in self.plan.jobs)

    def _job_over(self, job_id: str) -> bool:
        log = self.watch.logs[job_id]
        if not log.entries:
            return self._not_there(job_id) and (not self.plan.apart or not self._in_queue(job_id, or_open=True))
        if self.plan.apart and not self.watch.told(log) and job_id not in self.deleted:
            return False
        return log.emptied and not self._in_queue(job_id, or_open=True)

    def _not_there(self, job_id: str) -> bool:
        """Whether it is right that there is no log of it: it was lost, or given up before it was stored."""
        return self.watch.logs[job_id].vanished or self.productions[job_id].given_up

    def _in_queue(self, job_id: str, *, or_open: bool = False) -> bool:
        return KEYS.queued(job_id).encode() in queued(self.queue.db, KEYS) or (or_open and self._in_open(job_id))

    def _in_open(self, job_id: str) -> bool:
        return job_id.encode() in (self.queue.db.get(KEYS.open.encode(), dict) or {})

    def _what_is_open(self) -> str:
        words = [task.get_name() for task in self.actors if not task.done()]
        for job_id, log in self.watch.logs.items():
            if not self._job_over(job_id):
                top = log.entries[-1] if log.entries else None
                words.append(
                    f"{job_id} at {top} (queued: {self._in_queue(job_id)}, open: {self._in_open(job_id)}, "
                    f"emptied: {log.emptied}, told: {self.watch.told(log)})"
                )
        return "; ".join(words)

    def _act(self, name: str, coroutine: Coroutine[Any, Any, None]) -> None:
        process = Process(self.loop, name)
        self.processes.append(process)
        self.actors.append(process.start(coroutine, name=name))

    # Workers.

    def start_worker(self, number: int) -> None:
        name = f"w{number}.{len(self.processes)}"
        process = Process(self.loop, name)
        process.clock_ahead_s = self.chance.choice([0.0, 0.0, 60.0, -60.0])
        self.processes.append(process)
        self.workers[f"w{number}"] = process, None
        self.staff.append(process.start(self._work(number, name, process), name=name))
        self.tell(f"{name} starts")

    async def _work(self, number: int, name: str, process: Process) -> None:
        url, queue_url = self.urls
        settings = SETTINGS[self.plan.lease_s, queue_url]
        async with Worker(settings, name=name, renewal_client=lambda: connect(queue_url or url)) as worker:  # type: ignore[arg-type,return-value]  # an asyncio client, for SimulatedRenewal  # pyright: ignore[reportArgumentType]
            self.workers[f"w{number}"] = process, worker
            await worker.run()

    # Producers and readers.

    def start_producer(self, job: PlannedJob, left: list[tuple[float, str]]) -> None:
        process = Process(self.loop, f"producer of {job.job_id}")
        self.processes.append(process)
        self.productions[job.job_id] = production = Production(self, job, left, process)
        self.actors.append(production.task)

    def _start_reader(self, job: PlannedJob, number: int) -> None:
        chance = random.Random(f"reader {self.plan.seed} {job.job_id} {number}")
        kind = TextReader if number % 2 == 0 else RecordReader
        reader = kind(
            f"{kind.__name__} {number} of {job.job_id}",
            job.job_id,
            KEYS,
            chance,
            urls=self.urls,
            begins_at=chance.choice([job.submit_at, job.submit_at + chance.uniform(0, 2 * self.plan.calm_at)]),
            cuts=chance.random() < 0.5,
            may_lose=lambda: self.watch.rolled_back,
            is_missing=lambda: job.job_id in self.deleted or self._not_there(job.job_id),
        )
        self.readers.append(reader)
        self._act(reader.name, reader.run())

    # The end.

    def _check_outcome(self) -> None:
        for job in self.plan.jobs:
            log = self.watch.logs[job.job_id]
            if not log.entries or job.job_id in self.deleted:
                continue
            end = log.end
            assert end is not None
            if end["status"] == "expired":
                assert job.request.deadline_s < 1000, "expired long before its deadline"
            if self.plan.theme == "quiet" and end["status"] != "cancelled":
                assert (end["status"], end["attempts"]) == ("completed", 1), f"nothing happened, but {end}"
            calls = [call for call in self.plan.temper.calls if call.prompt == log.prompt]
            assert len(calls) <= len(log.attempts), f"{len(calls)} upstream calls in {len(log.attempts)} attempts"
            for reader in self.readers:
                if reader.job_id == job.job_id:
                    self._check_reader(reader, log)
        forever = [
            key
            for site in self.sites
            for key in site.server.db.names()
            if (held := site.server.db.find(key)) and held.expires_ms is None
        ]
        assert not forever, f"keys without a time to live: {forever}"

    def _check_reader(self, reader: Reader, log: Log) -> None:
        if reader.outcome == "missing":
            return
        # Who came to the end before the server lost it has what stood then.
        forms = log.ended if self.watch.rolled_back else [log.entries]
        if isinstance(reader, TextReader):
            texts = [text_of(entries) for entries in forms]
            assert reader.shown in texts, f"{reader.name} shows {reader.shown!r}, but {texts} stood"
        elif isinstance(reader, RecordReader):
            if len(log.incarnations) > 1:
                # Lost as a whole and submitted again: the position of the first record is the same.
                forms = [[*reader.entries[:1], *entries[1:]] for entries in forms]
            assert reader.entries in forms, f"{reader.name} has other records than the log"

    def _clear_away(self) -> None:
        """End every task of every process, the dead ones' too, with a network that refuses."""
        for site in self.sites:
            site.network.refuses = True
            site.network.cut_all()
            site.process.thaw()
            site.server.after = None
        for process in self.processes:
            process.raise_the_dead()
        tasks: list[asyncio.Task[Any]] = []
        for _ in range(50):
            tasks = [task for process in self.processes for task in process.tasks if not task.done()]
            for task in tasks:
                task.cancel()
            if not self.loop.run_until(lambda: all(task.done() for task in tasks), at_most_s=5):  # noqa: B023
                continue
            self.loop.run_until(lambda: False, at_most_s=1)
            if all(task.done() for process in self.processes for task in process.tasks):
                break
        else:
            raise Violation(f"these tasks do not end: {tasks}")
        for process in self.processes:
            for task in process.tasks:
                # Looked at, so that asyncio has nothing to say when it is collected.
                if not task.cancelled():
                    task.exception()
            process.tasks.clear()
        self.loop.close()
