"""What a seed asks for."""

import random
from dataclasses import dataclass
from typing import Final, Literal

from tailrace.schemas import DEFAULT_QUEUE, JobRequest

from .network import Weather
from .upstream import Temper

HOST: Final = "simulated"
URL: Final = f"redis://{HOST}:6379/0"
#: Where the queue has a server of its own.
QUEUE_HOST: Final = "queue"
QUEUE_URL: Final = f"redis://{QUEUE_HOST}:6379/0"

#: Jobs are in these by turns.
QUEUES: Final = (DEFAULT_QUEUE, "slow")


@dataclass
class PlannedJob:
    job_id: str
    request: JobRequest
    submit_at: float
    cancel_at: float | None
    delete_at: float | None
    again_at: list[float]
    """When the same request is submitted again."""


Moment = Literal["ended", "emptied", "told"]
MOMENTS: Final[tuple[Moment, ...]] = ("ended", "emptied", "told")

#: What may befall a world, by what it is about.
THEMES: Final[dict[str, tuple[str, ...]]] = {
    "quiet": (),
    "loss": ("server restart",),
    "zombies": ("freeze", "server pause"),
    "deaths": ("kill", "drain"),
    "network": ("cut", "part", "flush scripts"),
    "anything": ("kill", "freeze", "drain", "cut", "part", "flush scripts", "server pause", "server restart", "clock"),
}


#: The same for a world with two servers, and how often.
THEMES_APART: Final[dict[str, tuple[tuple[str, ...], int]]] = {
    "quiet": ((), 1),
    "loss": (("server restart",), 8),
    "zombies": (("freeze", "server pause"), 3),
    "deaths": (("kill", "drain", "producer dies"), 4),
    "network": (("cut", "part", "flush scripts"), 4),
    "anything": ((*THEMES["anything"], "producer dies"), 8),
}


@dataclass(frozen=True)
class Apart:
    """What is planned besides where the queue has a server of its own."""

    weather: Weather
    """On the way to that server."""
    haste: int
    """The protocol's long waits, and the clocks' differences, are divided by that: each is long after what it waits for."""
    dying: str
    """Which servers die: "logs", "queue", or "both" (each by itself, or together)."""
    aim: Moment
    """After which moment in a job's life one of them is likely to die."""

    @property
    def minute_s(self) -> float:
        """What the protocol takes for longer than servers lose, and than clocks differ."""
        return 60 / self.haste


@dataclass
class Plan:
    """One seed's world. `faults` are the blows that may fall, until `calm_at`."""

    seed: int
    theme: str
    jobs: list[PlannedJob]
    workers: int
    readers: int
    calm_at: float
    faults: list[str]
    pace_s: float
    weather: Weather
    temper: Temper
    goes_back: bool
    """The server may lose what it has not yet synced when it restarts."""
    lease_s: float
    apart: Apart | None = None
    """None: one server has everything."""

    @classmethod
    def of(cls, seed: int, *, apart: bool = False) -> "Plan":
        """`apart`: a world with two servers. Under the same seed it is another one."""
        chance = random.Random(f"plan apart {seed}" if apart else f"plan {seed}")
        if apart:
            theme = chance.choices([*THEMES_APART], [weight for _, weight in THEMES_APART.values()])[0]
            faults = list(THEMES_APART[theme][0])
        else:
            theme = chance.choices([*THEMES], [1, 7, 4, 3, 4, 6])[0]
            faults = list(THEMES[theme])
        if theme == "anything":
            faults = chance.sample(faults, chance.randint(2, 6))
        stormy = theme == "network" or (theme != "quiet" and chance.random() < 0.25)
        calm_at = chance.uniform(2.0, 7.0)
        return cls(
            seed=seed,
            theme=theme,
            jobs=[_job(chance, number, theme, calm_at, apart=apart) for number in range(chance.choice([1, 1, 1, 2]))],
            workers=chance.choice([1, 2, 2, 3]),
            readers=chance.choice([1, 2, 2]),
            calm_at=calm_at,
            faults=faults,
            pace_s=chance.choice([0.3, 0.7, 1.2]),
            weather=_weather(chance, stormy=stormy),
            temper=_quiet_temper() if theme == "quiet" else _temper(chance, apart=apart),
            goes_back=theme == "loss" or (theme == "anything" and chance.random() < 0.5),
            lease_s=chance.choice([1.0, 1.0, 5.0]),
            apart=_apart(chance, stormy=stormy) if apart else None,
        )

    def __str__(self) -> str:
        jobs = ", ".join(f"{job.job_id} ({job.request.on_restart})" for job in self.jobs)
        return (
            f"seed {self.seed}{' apart' if self.apart else ''}, {self.theme}: {jobs}; {self.workers} workers, "
            f"{self.readers} readers a job; "
            f"{', '.join(self.faults) or 'no blows'} until {self.calm_at:.1f} s; {self.weather}; "
            f"goes_back={self.goes_back}, lease {self.lease_s} s"
            f"{f'; the queue: {self.apart}' if self.apart else ''}"
        )


def _apart(chance: random.Random, *, stormy: bool) -> Apart:
    return Apart(
        _weather(chance, stormy=stormy),
        haste=chance.choice([20, 20, 10, 1]),
        dying=chance.choice(["logs", "queue", "both", "both"]),
        aim=chance.choice(MOMENTS),
    )


def _weather(chance: random.Random, *, stormy: bool) -> Weather:
    return Weather(
        latency_s=chance.choice([(0.0001, 0.001), (0.001, 0.02), (0.0001, 0.1)]),
        spike=chance.choice([0, 0.03]) if stormy else 0,
        lost_before=chance.choice([0, 0.02, 0.06]) if stormy else 0,
        lost_after=chance.choice([0, 0.02, 0.06]) if stormy else 0,
        cut_answer=chance.choice([0, 0.02]) if stormy else 0,
        silent=chance.choice([0, 0, 0.004]) if stormy else 0,
    )


def _quiet_temper() -> Temper:
    return Temper(differs=0.0)


def _temper(chance: random.Random, *, apart: bool) -> Temper:
    return Temper(
        # Of two servers, what befalls a job when it has ended is what no single one can do.
        words=chance.choice([(1, 6), (1, 6), (20, 50)] if apart else [(1, 6), (20, 40), (20, 50)]),
        gap_s=chance.choice([(0.0, 0.05), (0.0, 0.4), (0.0, 0.4), (0.1, 0.5)]),
        differs=chance.choice([0.0, 0.5, 0.8]),
        cut=chance.choice([0.0, 0.0, 0.2, 0.5]),
        refused=chance.choice([0.0, 0.0, 0.1]),
        stall=chance.choice([0.0, 0.0, 0.1]),
    )


def request(prompt: str, chance: random.Random, theme: str, queue: str = DEFAULT_QUEUE) -> JobRequest:
    quiet = theme == "quiet"
    return JobRequest.of(
        prompt,
        model="m-instruct",
        queue=queue,
        metadata={"prompt": prompt},
        deadline=3600.0 if quiet else chance.choice([3600.0, 3600.0, 3600.0, 3600.0, chance.uniform(3, 20)]),
        delay=chance.choice([None, None, None, chance.uniform(0.1, 2)]),
        on_restart=chance.choice(["splice", "splice", "splice", "splice", "continue", "fail"]),
        max_attempts=chance.choice([1, 3, 10, 10]),
    )


def _job(chance: random.Random, number: int, theme: str, calm_at: float, *, apart: bool) -> PlannedJob:
    # Later too, so that a queue that comes back may know some of the jobs and not others.
    submit_at = chance.uniform(0, chance.choice([0.2, 0.8 * calm_at]) if apart else 0.2)

    def perhaps(likely: float) -> float | None:
        return submit_at + chance.uniform(0, calm_at) if chance.random() < likely else None

    return PlannedJob(
        job_id=f"j{number}",
        request=request(f"p{number}", chance, theme, QUEUES[number % len(QUEUES)]),
        submit_at=submit_at,
        cancel_at=perhaps(0.15),
        delete_at=perhaps(0.12 if apart else 0.04),
        again_at=sorted(submit_at + chance.uniform(0, calm_at) for _ in range(chance.choice([0, 0, 1, 2]))),
    )
