"""What a process has used, seen from outside: CPU time, memory; and which cores it may run on."""

import os
import subprocess
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

_PROC: Final = Path("/proc")
#: Linux keeps a clock for each process: its number is made of the process id (clock_getcpuclockid).
_CPU_CLOCK: Final = 2


def cpu_ns(pid: int) -> int:
    """The CPU time that a process has used, all threads, user and system. Raises: OSError if there is no such process."""
    if _PROC.is_dir():
        return time.clock_gettime_ns((~pid << 3) | _CPU_CLOCK)
    return round(_clock_s(_ps(pid, "time")) * 1e9)  # hundredths of a second


def rss_bytes(pid: int) -> int:
    """The memory of a process that is in RAM."""
    if _PROC.is_dir():
        return int((_PROC / str(pid) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return int(_ps(pid, "rss")) * 1024


def _ps(pid: int, column: str) -> str:
    done = subprocess.run(["ps", "-o", f"{column}=", "-p", str(pid)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _clock_s(told: str) -> float:
    """`[[hours:]minutes:]seconds` as seconds."""
    seconds = 0.0
    for part in told.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds


@dataclass(frozen=True, slots=True)
class Cores:
    """Who runs where: the worker alone, the others apart as far as the cores go. Empty sets where nothing can be kept apart."""

    worker: frozenset[int]
    upstream: frozenset[int]
    redis: frozenset[int]
    consumer: frozenset[int]

    @classmethod
    def anywhere(cls) -> Self:
        """Nobody is kept to a core."""
        return cls(*(frozenset[int]() for _ in range(4)))

    @classmethod
    def here(cls) -> Self:
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        if len(cores) < 2:
            return cls.anywhere()
        worker = frozenset(cores[-1:])
        if len(cores) < 4:
            rest = frozenset(cores[:-1])
            return cls(worker, rest, rest, rest)
        return cls(worker, frozenset(cores[-2:-1]), frozenset(cores[-3:-2]), frozenset(cores[:-3]))


def pin(pid: int, cores: Iterable[int]) -> None:
    """Let all threads of a process run on these cores only; nothing happens if there are none."""
    wanted = frozenset(cores)
    if not wanted or not hasattr(os, "sched_setaffinity"):
        return
    threads = _PROC / str(pid) / "task"
    for thread in threads.iterdir() if threads.is_dir() else [Path(str(pid))]:
        os.sched_setaffinity(int(thread.name), wanted)


@contextmanager
def pinned(pid: int, cores: Iterable[int]) -> Generator[None]:
    """As `pin`, for a block."""
    before = os.sched_getaffinity(pid) if hasattr(os, "sched_getaffinity") else set[int]()
    pin(pid, cores)
    try:
        yield
    finally:
        pin(pid, before)
