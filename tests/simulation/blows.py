"""What befalls a world: processes that are killed, frozen, cut off; servers that pause, restart, lose what they had."""

import asyncio
import random
from collections import Counter
from typing import TYPE_CHECKING, Final

from .loop import Process
from .plan import Moment
from .site import Site

if TYPE_CHECKING:
    from .world import World

#: What a server with a server beside it loses when it dies: nothing, its last second, what came since a copy, everything.
_LOSSES: Final = {"logs": (15, 65, 0, 20), "queue": (15, 40, 20, 25)}
_EVERYTHING_S: Final = 1e9
#: For so long after the calm one of two servers still dies when a job has come to the moment that is aimed at.
_AIMS_S: Final = 10.0


class Blows:
    """Strikes as the plan says, until it is calm. `counts`: how often what was struck."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._plan, self._loop = world.plan, world.loop
        self._chance = world.chance
        self._apart_chance = random.Random(f"blows apart {world.plan.seed}")
        """For what is drawn besides where there are two servers: those with one are the same as ever."""
        self.counts: Counter[str] = Counter()

    async def fall(self) -> None:
        await asyncio.sleep(self._chance.uniform(0.3, 2))
        while self._plan.faults and self._loop.now < self._plan.calm_at:
            fault = self._chance.choice(self._plan.faults)
            self.counts[fault] += 1
            await self._strike(fault)
            await asyncio.sleep(self._chance.expovariate(1 / self._plan.pace_s))

    def calm_down(self) -> None:
        self._world.tell("all goes well from here on")
        self._plan.temper.calm()
        for site in self._world.sites:
            site.network.weather.calm()
            site.network.cut_off.clear()
            site.process.thaw()
        for process in self._world.processes:
            if process.held and not process.dead:
                self._thaw(process)

    def perhaps_lose_it(self, moment: Moment) -> None:
        """An end that is lost while it is being settled is what chance alone would try too rarely."""
        if not self._plan.goes_back:
            return
        if self._plan.apart is not None:
            if moment == self._plan.apart.aim and self._loop.now < self._plan.calm_at + _AIMS_S:
                soon_s = self._apart_chance.uniform(0, 5) * self._plan.weather.latency_s[1]
                for site in self._dying():
                    self._loop.outside.later(soon_s, self._restart_soon, site, self._apart_chance.uniform(0, 1))
        elif moment == "ended" and self._loop.now < self._plan.calm_at and self._chance.random() < 0.5:
            soon_s = self._chance.uniform(0.5, 5) * self._plan.weather.latency_s[1]
            self._loop.outside.later(soon_s, self._restart_soon, self._world.sites[0])

    def _restart_soon(self, site: Site, lose_s: float | None = None) -> None:
        self._loop.outside.start(self._restart(site, lose_s))

    def _a_site(self) -> Site:
        sites = self._world.sites
        return sites[0] if len(sites) == 1 else self._apart_chance.choice(sites)

    def _some_sites(self) -> list[Site]:
        """One, or both."""
        sites = self._world.sites
        return sites if len(sites) == 1 else self._apart_chance.choice([sites[:1], sites[1:], sites])

    def _dying(self) -> list[Site]:
        apart, sites = self._plan.apart, self._world.sites
        if apart is None or apart.dying == "both":
            return self._some_sites()
        return sites[:1] if apart.dying == "logs" else sites[1:]

    def _from(self, site: Site) -> str:
        return f" from the {site.name}" if len(self._world.sites) > 1 else ""

    async def _strike(self, fault: str) -> None:
        world, chance, outside = self._world, self._chance, self._loop.outside
        key = chance.choice(sorted(world.workers))
        process, worker = world.workers[key]
        number = int(key[1:])
        match fault:
            case "kill":
                self._kill(process)
                outside.later(
                    chance.choice([0.0, chance.uniform(0, 3), chance.uniform(0, 10)]), world.start_worker, number
                )
                world.workers[key] = process, None
            case "freeze":
                if not process.held:
                    world.tell(f"{process.name} freezes")
                    process.freeze()
                    outside.later(
                        chance.choice([0.5, 1.0, 2.5]) * self._plan.lease_s * chance.random(), self._thaw, process
                    )
            case "drain":
                if worker is not None and not process.held:
                    world.tell(f"{process.name} drains")
                    world.workers[key] = process, None
                    process.start(worker.drain(chance.choice([0.0, 0.5, 5.0])))
                    outside.later(chance.uniform(0, 3), world.start_worker, number)
            case "producer dies":
                self._kill_producer()
            case "cut":
                victim = chance.choice(world.processes)
                for site in self._some_sites():
                    world.tell(f"{victim.name} is cut off{self._from(site)}")
                    site.network.cut_all(victim)
            case "server pause":
                site = self._a_site()
                if not site.process.held:
                    world.tell(f"the {site.name} pauses")
                    site.process.freeze()
                    outside.later(chance.choice([0.1, chance.uniform(0, 2), chance.uniform(4, 7)]), site.process.thaw)
            case "server restart":
                first, *others = self._dying()
                for site in others:
                    self._restart_soon(site)
                await self._restart(first)
            case "clock":
                site = self._a_site()
                by_s = self._jump(site, chance.choice([chance.uniform(-20, 20), chance.uniform(-0.01, 0.01)]))
                world.tell(f"the {site.name}'s clock jumps by {by_s:.3f} s")
            case "flush scripts":
                self._a_site().server.flush_scripts()
            case _:
                victim = chance.choice(world.processes)
                for site in self._some_sites():
                    world.tell(f"{victim.name} reaches nobody{self._from(site)}")
                    site.network.cut_off.add(victim.name)
                    site.network.cut_all(victim)
                    outside.later(chance.uniform(0.2, 7), site.network.cut_off.discard, victim.name)

    def _kill(self, process: Process) -> None:
        self._world.tell(f"{process.name} is killed")
        process.kill()
        for site in self._world.sites:
            site.network.cut_all(process)

    def _kill_producer(self) -> None:
        """In the middle of what it does, if it is at something. Another one takes over, or nobody."""
        chance, world = self._apart_chance, self._world
        production = world.productions[chance.choice(sorted(world.productions))]
        if production.process.dead or production.task.done():
            return
        self._kill(production.process)
        world.actors.remove(production.task)
        if chance.random() < 0.5:
            self._loop.outside.later(chance.uniform(0, 3), world.start_producer, production.job, production.left)
        else:
            production.given_up = True

    def _thaw(self, process: Process) -> None:
        if not process.dead:
            self._world.tell(f"{process.name} thaws")
            process.thaw()

    def _jump(self, site: Site, by_s: float) -> float:
        apart = self._plan.apart
        if apart is not None:
            # Two servers' clocks may differ, by less than the protocol allows for.
            by_s = self._apart_chance.uniform(-0.25, 0.25) * apart.minute_s - site.server.clock_ahead_us / 1_000_000
        site.server.clock_ahead_us += int(by_s * 1_000_000)
        return by_s

    async def _restart(self, site: Site, lose_s: float | None = None) -> None:
        chance = self._chance
        if self._plan.goes_back and lose_s is None:
            lose_s = self._loss_s(site) if self._plan.apart else self._last_s(chance) if chance.random() < 0.9 else None
        undone = site.stop(lose_s)
        self._world.tell(f"the {site.name} dies" + ("" if lose_s is None else f" and loses its last {undone} steps"))
        if chance.random() < 0.1:
            self._jump(site, chance.uniform(-3, 3))
        await site.start_after(chance.choice([0.001, 0.001, chance.uniform(0, 0.5), chance.uniform(0, 2)]))
        self._world.tell(f"the {site.name} is back")

    def _loss_s(self, site: Site) -> float | None:
        chance = self._apart_chance
        of_logs = site is self._world.sites[0]
        (kind,) = chance.choices(range(4), _LOSSES["logs" if of_logs else "queue"])
        return (None, self._last_s(chance), chance.uniform(0, 5), _EVERYTHING_S)[kind]

    def _last_s(self, chance: random.Random) -> float:
        return chance.choice([0.3, 1.0]) * chance.random()
