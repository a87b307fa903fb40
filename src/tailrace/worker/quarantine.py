"""Jobs that workers have died with run one at a time in a process: the next death then tells which of them it was."""

import logging
import random
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from arq.worker import Retry

from tailrace.schemas import START, Entry
from tailrace.worker.following import open_children
from tailrace.worker.job import Job

logger = logging.getLogger(__name__)

#: One worker's death happens to any job. At two, a thousand neighbours of a poison job are under suspicion with it, so a
#: job that is allowed three attempts (the default) has one left to prove that it was not the one.
SUSPECT_DEATHS: Final = 2
#: Who is turned away comes back so much later for each that waits: a freed place is empty for about that long, and a
#: worker reads no more than twenty logs a second in vain.
_PAUSE_EACH_S: Final = 0.05
_SHORTEST_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 15.0


class Quarantine:
    """One process's place for a job that is under suspicion."""

    def __init__(self) -> None:
        self._inside = 0
        self._family: set[str] = set()
        """Who has the place, and the jobs that it waits for: they may come in too, or it would wait for ever."""
        self._turned_away: dict[str, float] = {}

    @contextmanager
    def place(self, job: Job) -> Generator[None]:
        """Hold the place while the job runs, if it needs one. Raises: arq.Retry if another job has it."""
        deaths = job.deaths()
        # Who has no attempt left does not run.
        if deaths < SUSPECT_DEATHS or job.next_attempt() > job.request.max_attempts:
            yield
            return
        if self._inside and job.job_id not in self._family:
            raise Retry(defer=self._pause_s(job.job_id))
        logger.warning("job %r: %d workers have died with it, it runs without others of that kind", job.job_id, deaths)
        self._turned_away.pop(job.job_id, None)
        self._family |= {job.job_id, *_waits_for(job)}
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._family.clear()

    def _pause_s(self, job_id: str) -> float:
        now = time.monotonic()
        self._turned_away[job_id] = now
        # Those that another worker has taken do not come back.
        old = now - 3 * _LONGEST_PAUSE_S
        self._turned_away = {each: since for each, since in self._turned_away.items() if since > old}
        pause_s = min(max(_PAUSE_EACH_S * len(self._turned_away), _SHORTEST_PAUSE_S), _LONGEST_PAUSE_S)
        return pause_s * random.uniform(0.5, 1.5)  # noqa: S311 -- spreads them, guards nothing


def _waits_for(job: Job) -> list[str]:
    """The jobs that it had submitted and not seen the end of."""
    return open_children([Entry(line.position or START, line.field, line.text) for line in job.memory.lines])
