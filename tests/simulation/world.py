"""One seed, played: a server, workers, producers, readers and what befalls them, until everything has come to an end."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, ExitStack
from typing import Any, Final
from unittest.mock import patch

from tailrace.joblog import connect, connected
from tailrace.producer import Producer
from tailrace.schemas import GRACE_S, BrokerUnavailable, JobConflict, JobNotFound, Keys, Settings, WorkerSettings
from tailrace.worker.app import Worker

from .checks import Log, Watch, queued, text_of
from .loop import Process, simulated_loop
from .network import Network
from .plan import QUEUES, URL, Plan, PlannedJob
from .readers import Reader, RecordReader, TextReader
from .renewal import SimulatedRenewal
from .server import Server
from .shims import in_place
from .upstream import SimulatedUpstreams

KEYS: Final = Keys("t")
SETTINGS: Final = {
    lease_s: Settings(
        redis_url=URL,
        namespace=KEYS.namespace,
        worker=WorkerSettings(queues=QUEUES, max_jobs=10, lease_s=lease_s, sweep_s=lease_s),
    )
    for lease_s in (1.0, 5.0)
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
        self.server_process = Process(self.loop, "server")
        self.network = Network(self.loop, random.Random(f"network {plan.seed}"), self.server_process, plan.weather)
        self.server = Server(self.server_process, self.network)
        self.server.mutate = mutate
        if trace is not None:
            self.server.trace = self.tell
        self.watch = Watch(self.server, KEYS, [job.job_id for job in plan.jobs], plan.temper.calls)
        self.watch.on_end = self._perhaps_lose_it
        self.readers: list[Reader] = []
        self.processes: list[Process] = [self.loop.outside, self.server_process]
        self.workers: dict[str, tuple[Process, Worker | None]] = {}
        self.actors: list[asyncio.Task[Any]] = []
        self.staff: list[asyncio.Task[Any]] = []
        self._look_again_at = 0.0
        self.accepted: set[str] = set()
        self.deleted: set[str] = set()
        self.blows: dict[str, int] = {}
        self._trace = trace

    def tell(self, what: str) -> None:
        if self._trace is not None:
            self._trace(f"{self.loop.now:9.4f}  {what}")

    # Playing.

    def play(self) -> None:
        with ExitStack() as stack:
            stack.enter_context(in_place(self.loop, random.Random(f"secrets {self.plan.seed}")))
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
            self._start_worker(number)
        for job in self.plan.jobs:
            self._act(f"producer of {job.job_id}", self._produce(job))
            for number in range(self.plan.readers):
                self._start_reader(job, number)
        blows = self.loop.outside.start(self._blows())
        if not self.loop.run_until(blows.done, at_most_s=self.plan.calm_at + 60):
            raise Violation("the blows did not end")
        blows.result()
        self._calm_down()
        limit = SETTLES_S + max(self._latest_end(job) for job in self.plan.jobs)
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
        return all(task.done() for task in self.actors) and all(self._job_over(job.job_id) for job in self.plan.jobs)

    def _job_over(self, job_id: str) -> bool:
        log = self.watch.logs[job_id]
        if not log.entries:
            return log.vanished
        return log.emptied and not self._in_queue(job_id) and not self._in_open(job_id)

    def _in_queue(self, job_id: str) -> bool:
        return KEYS.queued(job_id).encode() in queued(self.server.db, KEYS)

    def _in_open(self, job_id: str) -> bool:
        return job_id.encode() in (self.server.db.get(KEYS.open.encode(), dict) or {})

    def _what_is_open(self) -> str:
        words = [task.get_name() for task in self.actors if not task.done()]
        for job_id, log in self.watch.logs.items():
            if not self._job_over(job_id):
                top = log.entries[-1] if log.entries else None
                words.append(
                    f"{job_id} at {top} (queued: {self._in_queue(job_id)}, open: {self._in_open(job_id)}, "
                    f"emptied: {log.emptied})"
                )
        return "; ".join(words)

    def _act(self, name: str, coroutine: Coroutine[Any, Any, None]) -> None:
        process = Process(self.loop, name)
        self.processes.append(process)
        self.actors.append(process.start(coroutine, name=name))

    # Workers.

    def _start_worker(self, number: int) -> None:
        name = f"w{number}.{len(self.processes)}"
        process = Process(self.loop, name)
        process.clock_ahead_s = self.chance.choice([0.0, 0.0, 60.0, -60.0])
        self.processes.append(process)
        self.workers[f"w{number}"] = process, None
        self.staff.append(process.start(self._work(number, name, process), name=name))
        self.tell(f"{name} starts")

    async def _work(self, number: int, name: str, process: Process) -> None:
        async with Worker(SETTINGS[self.plan.lease_s], name=name, renewal_client=lambda: connect(URL)) as worker:  # type: ignore[arg-type,return-value]  # an asyncio client, for SimulatedRenewal  # pyright: ignore[reportArgumentType]
            self.workers[f"w{number}"] = process, worker
            await worker.run()

    # Producers and readers.

    async def _produce(self, job: PlannedJob) -> None:
        moments: list[tuple[float, str]] = [(job.submit_at, "submit"), *((at, "submit") for at in job.again_at)]
        moments += [(at, what) for at, what in ((job.cancel_at, "cancel"), (job.delete_at, "delete")) if at is not None]
        async with AsyncExitStack() as stack:
            broker = await stack.enter_async_context(connected(URL))
            producer = Producer(broker, KEYS)
            for at, what in sorted(moments):
                await asyncio.sleep(max(0.0, at - self.loop.now))
                await self._ask(producer, job, what)
            while self.watch.logs[job.job_id].vanished:
                # A producer who asks finds the job lost with the server's last second, and submits it again.
                await self._ask(producer, job, "submit")

    async def _ask(self, producer: Producer, job: PlannedJob, what: str) -> None:
        while True:
            try:
                match what:
                    case "submit":
                        await producer.submit(job.request, job_id=job.job_id)
                        self.accepted.add(job.job_id)
                    case "cancel":
                        status = await producer.cancel(job.job_id)
                        end = self.watch.logs[job.job_id].end
                        assert self.watch.rolled_back or (end is not None and end["status"] == status.value)
                    case _:
                        self.deleted.add(job.job_id)
                        await producer.delete(job.job_id)
                self.tell(f"{job.job_id}: {what} is done")
            except BrokerUnavailable:
                await asyncio.sleep(0.2)
            except JobConflict:
                assert what == "submit"
                assert job.job_id in self.deleted, "the same request under the same id is not the same job"
                return
            except JobNotFound:
                assert what != "submit"
                known = self.watch.rolled_back or job.job_id in self.deleted or job.job_id not in self.accepted
                # A cancel that finds only the tombstone: the job ended, and its snapshot was stored, since it looked.
                assert known or self.watch.logs[job.job_id].emptied, f"{what}: an accepted job is not found"
                return
            else:
                return

    def _start_reader(self, job: PlannedJob, number: int) -> None:
        chance = random.Random(f"reader {self.plan.seed} {job.job_id} {number}")
        kind = TextReader if number % 2 == 0 else RecordReader
        reader = kind(
            f"{kind.__name__} {number} of {job.job_id}",
            job.job_id,
            KEYS,
            chance,
            begins_at=chance.choice([job.submit_at, job.submit_at + chance.uniform(0, 2 * self.plan.calm_at)]),
            cuts=chance.random() < 0.5,
            may_lose=lambda: self.watch.rolled_back,
            is_missing=lambda: job.job_id in self.deleted or self.watch.logs[job.job_id].vanished,
        )
        self.readers.append(reader)
        self._act(reader.name, reader.run())

    # What befalls them.

    async def _blows(self) -> None:
        await asyncio.sleep(self.chance.uniform(0.3, 2))
        while self.plan.faults and self.loop.now < self.plan.calm_at:
            fault = self.chance.choice(self.plan.faults)
            self.blows[fault] = self.blows.get(fault, 0) + 1
            await self._strike(fault)
            await asyncio.sleep(self.chance.expovariate(1 / self.plan.pace_s))

    async def _strike(self, fault: str) -> None:
        chance, outside = self.chance, self.loop.outside
        key = chance.choice(sorted(self.workers))
        process, worker = self.workers[key]
        number = int(key[1:])
        match fault:
            case "kill":
                self._kill(process)
                outside.later(
                    chance.choice([0.0, chance.uniform(0, 3), chance.uniform(0, 10)]), self._start_worker, number
                )
                self.workers[key] = process, None
            case "freeze":
                if not process.held:
                    self.tell(f"{process.name} freezes")
                    process.freeze()
                    outside.later(
                        chance.choice([0.5, 1.0, 2.5]) * self.plan.lease_s * chance.random(), self._thaw, process
                    )
            case "drain":
                if worker is not None and not process.held:
                    self.tell(f"{process.name} drains")
                    self.workers[key] = process, None
                    process.start(self._drain(worker, chance.choice([0.0, 0.5, 5.0])))
                    outside.later(chance.uniform(0, 3), self._start_worker, number)
            case "cut":
                victim = chance.choice(self.processes)
                self.tell(f"{victim.name} is cut off")
                self.network.cut_all(victim)
            case "server pause":
                if not self.server_process.held:
                    self.tell("the server pauses")
                    self.server_process.freeze()
                    outside.later(
                        chance.choice([0.1, chance.uniform(0, 2), chance.uniform(4, 7)]), self.server_process.thaw
                    )
            case "server restart":
                await self._restart_server()
            case "clock":
                by = chance.choice([chance.uniform(-20, 20), chance.uniform(-0.01, 0.01)])
                self.tell(f"the server's clock jumps by {by:.3f} s")
                self.server.clock_ahead_us += int(by * 1_000_000)
            case "flush scripts":
                self.server.flush_scripts()
            case _:
                victim = chance.choice(self.processes)
                self.tell(f"{victim.name} reaches nobody")
                self.network.cut_off.add(victim.name)
                self.network.cut_all(victim)
                outside.later(chance.uniform(0.2, 7), self.network.cut_off.discard, victim.name)

    def _kill(self, process: Process) -> None:
        self.tell(f"{process.name} is killed")
        process.kill()
        self.network.cut_all(process)

    def _thaw(self, process: Process) -> None:
        if not process.dead:
            self.tell(f"{process.name} thaws")
            process.thaw()

    async def _drain(self, worker: Worker, grace_s: float) -> None:
        await worker.drain(grace_s)

    async def _restart_server(self) -> None:
        chance = self.chance
        self.network.refuses = True
        self.network.cut_all()
        self.server.restart()
        if self.plan.goes_back and chance.random() < 0.9:
            undone = self.server.go_back(chance.choice([0.3, 1.0]) * chance.random())
            self.tell(f"the server dies and loses its last {undone} steps")
            if undone:
                self.watch.went_back()
        else:
            self.tell("the server dies")
        if chance.random() < 0.1:
            self.server.clock_ahead_us += int(chance.uniform(-3, 3) * 1_000_000)
        await asyncio.sleep(chance.choice([0.001, 0.001, chance.uniform(0, 0.5), chance.uniform(0, 2)]))
        self.network.refuses = False
        self.tell("the server is back")

    def _perhaps_lose_it(self) -> None:
        """An end that is lost while it is being settled is what chance alone would try too rarely."""
        if self.plan.goes_back and self.loop.now < self.plan.calm_at and self.chance.random() < 0.5:
            soon_s = self.chance.uniform(0.5, 5) * self.plan.weather.latency_s[1]
            self.loop.outside.later(soon_s, lambda: self.loop.outside.start(self._restart_server()))

    def _calm_down(self) -> None:
        self.tell("all goes well from here on")
        self.plan.weather.calm()
        self.plan.temper.calm()
        self.network.cut_off.clear()
        self.server_process.thaw()
        for process in self.processes:
            if process.held and not process.dead:
                self._thaw(process)

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
            key for key in self.server.db.names() if (held := self.server.db.find(key)) and held.expires_ms is None
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
        self.network.refuses = True
        self.network.cut_all()
        self.server_process.thaw()
        self.server.after = None
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
