"""What is installed here: what brings what, how large it is, under which licence."""

from collections.abc import Iterable
from importlib.metadata import distribution
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name as canonical

__all__ = ["author_of", "canonical", "closure", "licence_of", "size_of"]

#: Older packages name their licence in words of their own.
_SPDX: Final = {
    "MIT License": "MIT",
    "MIT style": "MIT",
    "Apache": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "License agreement for matplotlib version": "PSF-based",
}


def licence_of(package: str) -> str:
    """The licence that a package declares: its expression, else its field, else its classifier."""
    metadata = distribution(package).metadata
    classified = [
        line for line in metadata.get_all("Classifier") or [] if line.startswith("License :: OSI Approved :: ")
    ]
    words = metadata["License-Expression"] or metadata["License"] or classified[0].rpartition(" :: ")[2]
    first = words.splitlines()[0]
    known = (spdx for told, spdx in _SPDX.items() if first.startswith(told) and first not in ("MIT", "Apache-2.0"))
    return first if metadata["License-Expression"] else next(known, first)


def author_of(package: str) -> str:
    """Who a package says has made it, the first of several; else who keeps it up; else "not told"."""
    metadata = distribution(package).metadata
    told = (metadata[field] for field in ("Author", "Author-email", "Maintainer", "Maintainer-email"))
    named = next((words for words in told if words), "not told")
    return named.split(",")[0].split("<")[0].strip(' "') or named.split("@")[0]


def size_of(package: str) -> int:
    """In bytes, as its wheel installs it."""
    return sum(file.size or 0 for file in distribution(package).files or [])


def closure(package: str, extras: Iterable[str] = ()) -> set[str]:
    """Everything that a package brings on this machine, without itself."""
    found: set[str] = set()
    waiting = [(package, tuple(extras))]
    done: set[tuple[str, tuple[str, ...]]] = set()
    while waiting:
        name, chosen = waiting.pop()
        if (name, chosen) in done:
            continue
        done.add((name, chosen))
        for line in distribution(name).requires or []:
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *chosen)):
                found.add(canonical(requirement.name))
                waiting.append((canonical(requirement.name), tuple(sorted(requirement.extras))))
    return found - {canonical(package)}
