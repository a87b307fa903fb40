"""Playing many seeds: what the tests and the command share."""

import gc
import logging
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from .mutants import InLua, InPython
from .plan import Plan
from .world import World

_COLLECT_AFTER = 10


@dataclass
class Tally:
    """What happened in many worlds."""

    seeds: int = 0
    steps: int = 0
    happened: Counter[str] = field(default_factory=Counter[str])

    def add(self, world: World) -> None:
        self.seeds += 1
        self.steps += world.loop.steps
        self.happened.update(world.watch.counts)
        self.happened.update({f"network {name}": count for name, count in world.plan.weather.counts.items()})
        if world.plan.apart is not None:
            self.happened.update({f"network {name}": n for name, n in world.plan.apart.weather.counts.items()})
        self.happened.update({f"blow {name}": count for name, count in world.blows.counts.items()})
        self.happened.update(f"job {(log.end or {}).get('status')}" for log in world.watch.logs.values())
        self.happened.update(f"reader {reader.outcome}" for reader in world.readers)


def play(
    seed: int,
    *,
    apart: bool = False,
    mutant: InLua | InPython | None = None,
    trace: Callable[[str], None] | None = None,
) -> World:
    """Play one seed. Raises whatever it finds, with a note that says how to play it alone."""
    world = World(Plan.of(seed, apart=apart), mutate=mutant if isinstance(mutant, InLua) else str, trace=trace)
    before = logging.root.manager.disable
    if trace is None:
        logging.disable(logging.CRITICAL)
    try:
        with ExitStack() as stack:
            if isinstance(mutant, InPython):
                stack.enter_context(mutant.applied())
            world.play()
    except BaseException as error:
        switches = "--apart --trace" if apart else "--trace"
        error.add_note(f"{world.plan}\nalone, with a trace: python -m tests.simulation 1 --from {seed} {switches}")
        raise
    finally:
        logging.disable(before)
    return world


def play_all(seeds: Iterable[int], tally: Tally | None = None, *, apart: bool = False) -> Tally:
    """Play seeds one after the other. Raises what the first bad one finds."""
    tally = tally or Tally()
    with _collecting_between() as collect:
        for number, seed in enumerate(seeds, 1):
            tally.add(play(seed, apart=apart))
            if number % _COLLECT_AFTER == 0:
                collect()
    return tally


def first_noticed(mutant: InLua | InPython, seeds: Iterable[int]) -> tuple[int, BaseException] | None:
    """The first seed that something is wrong with, and what."""
    with _collecting_between() as collect:
        fitting = (seed for seed in seeds if mutant.theme in (None, Plan.of(seed, apart=mutant.apart).theme))
        for number, seed in enumerate(fitting, 1):
            try:
                play(seed, apart=mutant.apart, mutant=mutant)
            except Exception as error:  # whatever it is that goes wrong
                return seed, error
            if number % _COLLECT_AFTER == 0:
                collect()
    return None


@contextmanager
def _collecting_between() -> Generator[Callable[[], int]]:
    """Garbage is collected between worlds only, and without going through what was there before: a third of the time;
    and nothing in a world depends on when it happens."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield gc.collect
    finally:
        gc.enable()
        gc.unfreeze()
