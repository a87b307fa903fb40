"""How old what came was when it came, window by window: kept by the process that it comes to, told when all is over."""

from typing import Final

#: A window's ages are told as so many of them: enough for their p99, not too many for one line.
_TOLD: Final = 1001


class Ages:
    """Windows of ages, in whatever unit. What comes goes into `now`."""

    def __init__(self) -> None:
        self.now: list[int] = []
        self._windows = [self.now]

    def next_window(self) -> None:
        self.now = []
        self._windows.append(self.now)

    def windows(self) -> list[list[int]]:
        """All between the first and the last beginning of a window, as quantiles."""
        return [_evenly(sorted(ages)) for ages in self._windows[1:-1]]


def _evenly(ordered: list[int]) -> list[int]:
    """Some of them, evenly spread: the same quantiles."""
    if len(ordered) <= _TOLD:
        return ordered
    return [ordered[round(step * (len(ordered) - 1) / (_TOLD - 1))] for step in range(_TOLD)]
